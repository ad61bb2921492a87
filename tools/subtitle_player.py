"""
Transcribe a recording and make a page that plays it under its waveform, with the words as WebVTT subtitles.

    python tools/subtitle_player.py talk.mp3 player --model nvidia/parakeet-tdt-0.6b-v3
    python -m http.server --directory player

Browsers read subtitles only from a server, hence the second line. Without a recording it takes the two clips that the
package carries, with the checkpoint that it carries.

    python tools/subtitle_player.py talk.mp3 player --diarize nvidia/diar_streaming_sortformer_4spk-v2.1

also draws who speaks when, and the words of each, under the waveform; subtitles then have their speakers.
"""

from __future__ import annotations

import argparse
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from transformers_fastconformer import SpeakerTurn, add_speakers, diarize, load_model, read_audio
from transformers_fastconformer.demonstration import CHECKPOINT_PATH, CLIP_PATHS
from transformers_fastconformer.inference.file import transcribe_file
from transformers_fastconformer.writers.formats import format_transcript
from transformers_fastconformer.writers.record import TranscriptRecord

SAMPLING_RATE = 16000
WIDTH, HEIGHT, LANE_HEIGHT = 960, 300, 44
SPEAKER_COLOURS = ("#8ab8ff", "#ffb37a", "#7fd99a", "#e0a3ee")
PAUSE_SECONDS = 1.0

# Browsers show subtitles over pictures, which a recording does not have. Here the page itself shows the subtitle of
# the moment, as the browser has read it from the WebVTT file.
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<style>
  body {{ width: {width}px; margin: 24px; background: #16181d; color: #e8e8e8; font: 16px sans-serif; }}
  h1 {{ font-size: 20px; }}
  #stage {{ position: relative; height: {height}px; border-radius: 6px; overflow: hidden; }}
  #head {{ position: absolute; top: 0; width: 2px; height: 100%; background: #fff; }}
  #subtitle {{ position: absolute; bottom: 24px; width: 100%; text-align: center; white-space: pre-line; }}
  #subtitle span {{ padding: 4px 12px; background: rgba(0, 0, 0, 0.8); font-size: 24px; line-height: 1.4; }}
  audio {{ width: 100%; margin-top: 12px; }}
</style>
<h1>{title}</h1>
<div id="stage"><img src="waveform.svg" alt="waveform"><div id="head"></div><div id="subtitle"></div></div>
{speakers}
<audio controls src="audio.wav" preload="auto">
  <track default kind="subtitles" srclang="en" label="Transcript" src="audio.vtt">
</audio>
<script>
  const audio = document.querySelector("audio"), subtitle = document.getElementById("subtitle");
  const track = audio.textTracks[0];
  track.mode = "hidden";
  track.oncuechange = () => subtitle.replaceChildren(...Array.from(track.activeCues, (cue) => {{
    const line = document.createElement("span");
    const voice = cue.text.match(/^<v ([^>]+)>/);
    if (voice) line.append("[" + voice[1] + "] ");
    line.append(cue.getCueAsHTML());
    return line;
  }}));
  const move = () => {{
    document.getElementById("head").style.left = 100 * audio.currentTime / (audio.duration || 1) + "%";
    requestAnimationFrame(move);
  }};
  move();
</script>
</html>
"""


def draw_waveform(waveform: np.ndarray, width: int = WIDTH, height: int = HEIGHT) -> str:
    """Draw an SVG with a bar for the loudest sample of every other column."""
    columns = np.array_split(np.abs(waveform), width // 2)
    peaks = np.array([column.max(initial=0.0) for column in columns])
    peaks /= max(float(peaks.max(initial=0.0)), 1e-9)
    bars = "".join(
        f"M{2 * column + 1} {height / 2 - size:.1f}V{height / 2 + size:.1f}"
        for column, size in enumerate(0.5 + 0.36 * height * peaks)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">'
        f'<rect width="{width}" height="{height}" fill="#0d0f12"/>'
        f'<path d="{bars}" stroke="#76b900" stroke-width="1.2"/></svg>\n'
    )


def draw_speakers(turns: Sequence[SpeakerTurn], words: Sequence[Mapping[str, Any]], seconds: float) -> str:
    """Draw an SVG with a lane for each speaker: bars where they speak, and their words."""
    speakers = sorted({turn.speaker for turn in turns})
    height = LANE_HEIGHT * len(speakers)
    parts = [f'<rect width="{WIDTH}" height="{height}" fill="#0d0f12"/>']
    for lane, speaker in enumerate(speakers):
        top, colour = lane * LANE_HEIGHT, SPEAKER_COLOURS[speaker % len(SPEAKER_COLOURS)]
        for turn in turns:
            if turn.speaker == speaker:
                x, width = WIDTH * turn.start / seconds, WIDTH * (turn.end - turn.start) / seconds
                parts.append(f'<rect x="{x:.1f}" y="{top + 4}" width="{width:.1f}" height="10" fill="{colour}"/>')
        for word in words:
            if word.get("speaker") == f"speaker_{speaker}":
                x, text = WIDTH * word["start"] / seconds, html.escape(word["word"])
                style = f'fill="{colour}" font-family="sans-serif" font-size="13"'
                parts.append(f'<text x="{x:.1f}" y="{top + 32}" {style}>{text}</text>')
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}">{"".join(parts)}</svg>\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", nargs="?", help="a recording; default: the clips of the package")
    parser.add_argument("output_dir", nargs="?", type=Path, default=Path("player"))
    parser.add_argument("--model", default=CHECKPOINT_PATH)
    parser.add_argument("--diarize", metavar="MODEL", help="a Sortformer that tells the speakers apart")
    arguments = parser.parse_args()

    if arguments.audio is None:
        pause = np.zeros(round(PAUSE_SECONDS * SAMPLING_RATE), dtype=np.float32)
        waveform = np.concatenate([part for path in CLIP_PATHS for part in (read_audio(path, SAMPLING_RATE), pause)])
        title = "FastConformer digits"
    else:
        waveform, title = read_audio(arguments.audio, SAMPLING_RATE), Path(arguments.audio).name

    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    audio = arguments.output_dir / "audio.wav"
    soundfile.write(audio, waveform, SAMPLING_RATE)
    model, processor = load_model(arguments.model)
    transcript = transcribe_file(model, processor, audio)
    lanes = ""
    if arguments.diarize is not None:
        turns = diarize(audio, arguments.diarize).turns
        transcript = add_speakers(transcript, turns)
        drawn = draw_speakers(turns, (transcript.timestamps or {})["word"], transcript.duration_seconds)
        (arguments.output_dir / "speakers.svg").write_text(drawn, encoding="utf-8")
        lanes = '<img src="speakers.svg" alt="who speaks when">'
    page = PAGE.format(title=html.escape(title), width=WIDTH, height=HEIGHT, speakers=lanes)
    for name, text in (
        ("audio.vtt", format_transcript(TranscriptRecord(transcript, "audio.wav"), "vtt")),
        ("waveform.svg", draw_waveform(waveform)),
        ("index.html", page),
    ):
        (arguments.output_dir / name).write_text(text, encoding="utf-8")
    print(f"{arguments.output_dir / 'index.html'}: {transcript.text}")


if __name__ == "__main__":
    main()
