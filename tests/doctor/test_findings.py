from segray.doctor.findings import Finding, counts, exit_code, grouped, ordered

ONE = Finding("slices", "warning", "b", "Slices are missing.")
TWO = Finding("slices", "warning", "a", "Slices are missing.")
BAD = Finding("unreadable", "error", "c", "It is cut off.", "Copy it again.")


def test_the_worst_stands_first_and_nothing_twice() -> None:
    assert ordered([ONE, BAD, TWO, ONE]) == [BAD, TWO, ONE]


def test_only_an_error_changes_the_exit_code() -> None:
    assert exit_code([ONE, TWO]) == 0
    assert exit_code([ONE, BAD]) == 1
    assert counts([ONE, TWO, BAD]) == {"error": 1, "warning": 2, "note": 0}


def test_findings_of_one_code_are_one_row() -> None:
    groups = grouped([ONE, TWO, BAD])
    assert [(one.code, one.cases, one.sentences) for one in groups] == [
        ("unreadable", ("c",), ("It is cut off.",)),
        ("slices", ("a", "b"), ("Slices are missing.",)),
    ]
    assert Finding.from_dict(BAD.to_dict()) == BAD
