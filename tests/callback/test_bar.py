"""How far the training is, where nobody looks at a terminal."""

import re
import sys

import pytest
from lightning.pytorch.callbacks import TQDMProgressBar

from kd_lightning.callback.bar import Lines, bar
from kd_lightning.method.finetune import MaskedLM


def test_a_bar_is_for_a_terminal_and_lines_are_for_files(monkeypatch):
    found = {}
    for terminal in (True, False):
        monkeypatch.setattr(sys.stdout, "isatty", lambda terminal=terminal: terminal, raising=False)
        found[terminal] = type(bar(20, 30.0))
    assert found == {True: TQDMProgressBar, False: Lines}


@pytest.mark.parametrize(("seconds", "places"), [(1e9, ["0: 0/5", "2: 5/5"]), (0.0, None)])
def test_a_line_comes_at_the_start_every_so_many_seconds_and_at_the_end(
    seconds, places, make_encoder, engine, fit, corpus_batch, capsys
):
    batches = [corpus_batch(seed=i) for i in range(5)]
    distiller = MaskedLM(**engine(make_encoder(layers=2), None))
    fit(distiller, batches, max_epochs=3, callbacks=[Lines(seconds)], enable_progress_bar=True)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Epoch")]
    expected = places or ["0: 0/5", *(f"{epoch}: {batch}/5" for epoch in range(3) for batch in range(1, 6)), "2: 5/5"]
    assert [re.match(r"Epoch (\d+: \d+/\d+) batches", line)[1] for line in lines] == expected
    assert re.search(r"train/loss=\d+\.\d+", lines[-1])
