from __future__ import annotations

import json

from transformers_fastconformer.server.errors import ApiError, error_of, refused_field


def test_an_error_has_the_form_of_openai() -> None:
    response = refused_field("prompt", "this model takes none.").to_response()
    assert response.status_code == 400
    assert json.loads(bytes(response.body)) == {
        "error": {
            "message": "prompt: this model takes none.",
            "type": "invalid_request_error",
            "param": "prompt",
            "code": "unsupported_parameter",
        }
    }


def test_a_refusal_says_when_to_try_again_in_whole_seconds() -> None:
    assert ApiError("busy", 429, retry_seconds=1.2).to_response().headers["retry-after"] == "2"
    assert ApiError("busy", 429, retry_seconds=0.0).to_response().headers["retry-after"] == "1"
    assert "retry-after" not in ApiError("no").to_response().headers


def test_an_error_of_an_option_names_the_field_of_the_client() -> None:
    assert error_of(ValueError("language='xx' is not known")).parameter == "language"
    assert error_of(ValueError("boosting=1 is not supported")).parameter == "keywords"
    assert error_of(ValueError("something else")).parameter is None


def test_faults_say_nothing_of_the_program() -> None:
    found = error_of(RuntimeError("/home/user/secret.py"))
    assert found.status == 500
    assert "secret" not in found.message
