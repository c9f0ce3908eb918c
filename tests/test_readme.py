"""README's programs run as they are printed."""

import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_its_programs_do_what_it_says(capsys):
    scope = {}
    for program in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(program, scope)
    wrong = scope["labels"] != scope["y"]
    assert wrong[scope["suspects"][: wrong.sum()]].mean() > 0.9
    accuracy = float(capsys.readouterr().out)
    assert accuracy > 0.85  # ordinary training: 0.82 to 0.86 after as many steps
