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


@pytest.mark.parametrize(("seconds", "places"), [(1e9, [0, 15]), (0.0, [0, *range(1, 16), 15])])
@pytest.mark.parametrize("length", [{"max_epochs": 3}, {"max_epochs": -1, "max_steps": 15}])
def test_a_line_comes_at_the_start_every_so_many_seconds_and_at_the_end(
    seconds, places, length, make_encoder, engine, fit, corpus_batch, capsys
):
    batches = [corpus_batch(seed=i) for i in range(5)]
    distiller = MaskedLM(**engine(make_encoder(layers=2), None))
    fit(distiller, batches, **length, callbacks=[Lines(seconds)], enable_progress_bar=True)
    lines = [line for line in capsys.readouterr().out.splitlines() if " updates" in line]
    assert [re.match(r"(\d+/\d+) updates", line)[1] for line in lines] == [f"{place}/15" for place in places]
    assert re.search(r"train/loss=\d+\.\d+", lines[-1])
