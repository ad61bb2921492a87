"""`fastconformer serve`: a server for files and live streams, which existing clients use unchanged."""

from __future__ import annotations

from typing import Annotated

import typer

from ..inference.loading import AUTO_DEVICE, DEMONSTRATION_NAME, STREAMING_DEMONSTRATION_NAME
from ..server.options import DEFAULT_MODELS, INSTALL_COMMAND, ServedModel, ServerOptions
from .errors import say
from .model_options import DtypeOption, Precision

LIMITS_PANEL = "Limits"
DEFAULTS = ServerOptions()

ModelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="Hub repository, folder or .nemo file; NAME=CHECKPOINT gives it another name for clients; several by "
        f"giving it again. Default: {DEMONSTRATION_NAME} and {STREAMING_DEMONSTRATION_NAME}, the spoken-digit models "
        "that the package carries.",
    ),
]
HostOption = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all of this machine.")]
PortOption = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one.")]
DeviceOption = Annotated[
    str, typer.Option(help="Where models run: cpu, cuda, mps, or auto (the first there is of cuda, mps, cpu).")
]
DiarizeOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Sortformer checkpoint that tells the speakers of files apart, for clients that ask for diarized_json or "
        "diarize=true, and for the page.",
    ),
]
ApiKeyOption = Annotated[
    str | None,
    typer.Option(
        "--api_key",
        envvar="FASTCONFORMER_API_KEY",
        help="Key that clients must send. The environment variable keeps it out of lists of processes.",
    ),
]
CorsOption = Annotated[
    list[str] | None,
    typer.Option("--cors_origin", help="Origin whose pages may ask, such as https://example.org. Default: none."),
]
MaxLoadedOption = Annotated[
    int, typer.Option("--max_loaded_models", min=1, help="Models in memory at a time.", rich_help_panel=LIMITS_PANEL)
]
UnloadOption = Annotated[
    float | None,
    typer.Option(
        "--unload_seconds",
        help="A model that was not used for so long leaves the memory. Default: it stays.",
        rich_help_panel=LIMITS_PANEL,
    ),
]
MaxUploadOption = Annotated[
    int, typer.Option("--max_upload_mb", min=1, help="Largest upload, in MB.", rich_help_panel=LIMITS_PANEL)
]
MaxAudioOption = Annotated[
    float, typer.Option("--max_audio_seconds", help="Longest recording.", rich_help_panel=LIMITS_PANEL)
]
MaxQueueOption = Annotated[
    int, typer.Option("--max_queue", min=1, help="Files that may wait.", rich_help_panel=LIMITS_PANEL)
]
MaxWaitOption = Annotated[
    float,
    typer.Option(
        "--max_wait_seconds",
        help="Files are refused, with a time to try again, where those before them take longer, as measured.",
        rich_help_panel=LIMITS_PANEL,
    ),
]
MaxConnectionsOption = Annotated[
    int, typer.Option("--max_connections", min=1, help="Connections at a time.", rich_help_panel=LIMITS_PANEL)
]
WyomingOption = Annotated[
    int | None,
    typer.Option(
        "--wyoming",
        min=1,
        max=65535,
        help="Port of the Wyoming protocol, for Home Assistant (its own default is 10300). It knows no keys.",
    ),
]
MaxStreamsOption = Annotated[
    int, typer.Option("--max_streams", min=1, help="Live streams at a time.", rich_help_panel=LIMITS_PANEL)
]
MaxLoadOption = Annotated[
    float,
    typer.Option(
        "--max_load",
        help="Share of real time that live streams may take, as measured; more streams are refused.",
        rich_help_panel=LIMITS_PANEL,
    ),
]
MaxLagOption = Annotated[
    float,
    typer.Option("--max_lag_seconds", help="A stream that is later is ended.", rich_help_panel=LIMITS_PANEL),
]
BatchSizeOption = Annotated[
    int, typer.Option("--batch_size", min=1, help="Clips that the encoder sees at a time, at most.")
]


def serve(
    model: ModelsOption = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    device: DeviceOption = AUTO_DEVICE,
    dtype: DtypeOption = Precision.AUTO,
    diarize: DiarizeOption = None,
    api_key: ApiKeyOption = None,
    cors_origin: CorsOption = None,
    wyoming: WyomingOption = None,
    batch_size: BatchSizeOption = DEFAULTS.batch_size,
    max_loaded_models: MaxLoadedOption = DEFAULTS.max_loaded_models,
    unload_seconds: UnloadOption = None,
    max_upload_mb: MaxUploadOption = 2000,
    max_audio_seconds: MaxAudioOption = DEFAULTS.max_audio_seconds,
    max_queue: MaxQueueOption = DEFAULTS.max_queue,
    max_wait_seconds: MaxWaitOption = DEFAULTS.max_wait_seconds,
    max_connections: MaxConnectionsOption = DEFAULTS.max_connections,
    max_streams: MaxStreamsOption = DEFAULTS.max_streams,
    max_load: MaxLoadOption = DEFAULTS.max_load,
    max_lag_seconds: MaxLagOption = DEFAULTS.max_lag_seconds,
) -> None:
    """Serve models: a page at /, files and live streams for clients of OpenAI and Deepgram, /docs, /health, /metrics.

    Ctrl-C or SIGTERM stops it: requests that are there are finished first.
    """
    options = ServerOptions(
        models=[ServedModel.parse(text) for text in model] if model else DEFAULT_MODELS,
        device=device,
        dtype=dtype.value,
        diarize=diarize,
        api_key=api_key,
        cors_origins=tuple(cors_origin or ()),
        batch_size=batch_size,
        max_loaded_models=max_loaded_models,
        unload_seconds=unload_seconds,
        max_upload_bytes=max_upload_mb * 1_000_000,
        max_audio_seconds=max_audio_seconds,
        max_queue=max_queue,
        max_wait_seconds=max_wait_seconds,
        max_connections=max_connections,
        max_streams=max_streams,
        max_load=max_load,
        max_lag_seconds=max_lag_seconds,
    )
    try:
        from ..server import run
        from ..server.service import Service
    except ImportError as error:
        raise ImportError(f"The server needs {error.name}: {INSTALL_COMMAND}") from error

    def announce(address: str) -> None:
        names = ", ".join(served.name for served in options.models)
        say(f"Serving {names} at {address} (documentation: {address}/docs)")

    run.serve(Service(options), host, port, announce, wyoming)
