"""Names of patients in what people read: pseudonyms by a key, in all words that a process says."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from segray import privacy
from segray.config import IngestConfig, PrivacyConfig, load_config
from segray.errors import CaseError, SegrayError, UsageError
from segray.formats import discover
from segray.formats.identifying import names_of_one
from segray.formats.source import CaseSource
from segray.phantoms import make_phantoms
from segray.pseudonyms import OWN_KEY, Pseudonyms, named_key, own_key_file

HIDDEN = PrivacyConfig(hash_ids=True)


@pytest.fixture(autouse=True)
def clear_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(HIDDEN.key_variable, raising=False)
    yield
    privacy.forget()


@pytest.fixture
def hiding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pseudonyms:
    monkeypatch.setenv(HIDDEN.key_variable, "sixteen bytes are the least")
    privacy.begin(HIDDEN, str(tmp_path / "out"))
    privacy.know(["s0001", "12", "b.7"], "case")
    privacy.know_folders(["/data"])
    return Pseudonyms(b"sixteen bytes are the least")


def test_nothing_is_hidden_unless_it_is_told(tmp_path: Path) -> None:
    privacy.begin(PrivacyConfig(), str(tmp_path))
    privacy.know(["s0001"], "case")
    assert privacy.hide("s0001: /data/s0001/ct.nii.gz") == "s0001: /data/s0001/ct.nii.gz"
    assert privacy.hide_case("s0001") == "s0001"
    assert list(tmp_path.iterdir()) == []


def test_the_pseudonym_is_the_hmac_of_rfc_4231() -> None:
    """Test case 2 of RFC 4231: key Jefe, 5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843."""
    assert Pseudonyms(b"Jefe").of("what do ya want for nothing?") == "case-5bdcc146bf60754e"


def test_a_name_is_hidden_as_a_word_and_nowhere_else(hiding: Pseudonyms) -> None:
    known = hiding.of("s0001")
    said = "s0001, s0001_0000.nii.gz and part-s0001.parquet, not xs0001 or s00012"
    assert privacy.hide(said) == said.replace("s0001,", f"{known},", 1).replace("s0001_", f"{known}_").replace(
        "part-s0001", f"part-{known}"
    )


@pytest.mark.parametrize(
    "said",
    [
        "12: The labels have other sizes.",
        "3 cases (12, s0001, ...) have lost the mask: done again.",
        "rank 0: step 7 of epoch 3 skipped: ('12', 's0001')",
        "rank 1: 12 is left out of the validation: broken",
        "left out: part-12.parquet, case 12, slice 12.5 is damaged",
        "The labels of 12 do not lie on the grid of its series.",
        "12 is no DICOM series, and a DICOM SEG must refer to one.",
        "/data/12/ct.nii.gz cannot be read.",
        "'12'",
        "12.nii.gz",
    ],
)
def test_a_short_id_is_hidden_where_it_is_one(hiding: Pseudonyms, said: str) -> None:
    hidden = privacy.hide(said)
    assert hiding.of("12") in hidden
    assert privacy.hide(hidden) == hidden


@pytest.mark.parametrize("said", ["epoch 12: loss 0.12", "12 of 12 cases", "12 workers, each 12 CPUs", "b.75"])
def test_a_number_that_is_also_an_id_stays_a_number(hiding: Pseudonyms, said: str) -> None:
    assert privacy.hide(said) == said


@pytest.mark.parametrize(
    ("path", "leaks"),
    [
        ("/data/Mueller/ct.nii.gz", ["Mueller"]),
        ("/data/Hans Mueller/first scan.nii.gz", ["Hans", "Mueller", "first", "scan"]),
        ("/data/Mueller^Hans/1.2.840.113619.2.55.3/IM-0001.dcm", ["Mueller", "113619", "IM-0001"]),
        ("/data/a.nii.gz", ["/a."]),
    ],
)
def test_what_lies_below_a_folder_of_scans_is_hidden_unknown(hiding: Pseudonyms, path: str, leaks: list[str]) -> None:
    said = privacy.hide(f"{path} has the same case id as {path}; it is left out.")
    assert said.startswith("/data/")
    assert said.endswith("; it is left out.")
    assert " has the same case id as /data/" in said
    for leak in leaks:
        assert leak not in said
    assert privacy.hide(said) == said


def test_the_folder_of_the_outcome_is_shown_though_it_lies_among_scans(hiding: Pseudonyms) -> None:
    privacy.begin(HIDDEN, "/data/out")
    said = f"See /data/out/run.log and /data/out/masks/{hiding.of('s0001')}.nii.gz in /data/out."
    assert privacy.hide("See /data/out/run.log and /data/out/masks/s0001.nii.gz in /data/out.") == said
    assert privacy.hide("/data/outer/x.nii") != "/data/outer/x.nii"


def test_a_uid_is_hidden_wherever_it_stands(hiding: Pseudonyms) -> None:
    uid = "1.2.840.113619.2.55.3"
    assert privacy.hide(f"The series {uid} of Ray 2.60.0 and 0.25") == (
        f"The series {hiding.of(uid, 'uid')} of Ray 2.60.0 and 0.25"
    )


def test_of_a_path_what_several_patients_share_is_no_name() -> None:
    masks = {"liver": "/archive/anna/seg/liver.nii.gz"}
    cases = [
        CaseSource("anna_1", "/archive/anna/2019/ct.nii.gz", masks, patient="anna"),
        CaseSource("anna_2", "/archive/anna/2020/ct.nii.gz", patient="anna"),
        CaseSource("b", "/archive/b/2019/b_0000.nii.gz", labels="/archive/b/by-dr-Frank.nii.gz"),
    ]
    assert names_of_one(cases) == {"anna", "2020", "by-dr-Frank"}
    assert names_of_one(cases[2:], {"archive", "b"}) == {"2019", "by-dr-Frank"}


def test_one_scan_hides_no_word_of_the_way_to_it(tmp_path: Path, hiding: Pseudonyms) -> None:
    make_phantoms(str(tmp_path / "segray" / "loss"), cases=1, broken=False)
    scan = next((tmp_path / "segray" / "loss").rglob("ct.nii.gz"))
    discover(str(scan), IngestConfig(), labelled=False)
    said = f"segray: loss 0.5 in {tmp_path}/segray/loss"
    assert privacy.hide(said) == said
    assert privacy.hide(f"{scan.parent}/other.nii.gz") != f"{scan.parent}/other.nii.gz"


def test_a_problem_of_a_file_hides_no_word_of_the_layout(tmp_path: Path, hiding: Pseudonyms) -> None:
    make_phantoms(str(tmp_path / "made"), cases=1, broken=False)
    scan = next((tmp_path / "made").rglob("ct.nii.gz"))
    for name in ("images/one.nii.gz", "labels/one.nii.gz", "labels/Mueller.nii.gz"):
        (tmp_path / "scans" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "scans" / name).write_bytes(scan.read_bytes())
    found = discover(str(tmp_path / "scans"), IngestConfig())
    assert [name for name, _ in found.problems] == ["Mueller"]
    assert privacy.hide("The labels and images of Mueller.") == f"The labels and images of {hiding.of('Mueller')}."


def test_the_names_of_an_archive_are_known_once_it_was_looked_at(tmp_path: Path, hiding: Pseudonyms) -> None:
    made = make_phantoms(str(tmp_path / "scans"), cases=2, broken=False)
    discover(str(tmp_path / "scans"), IngestConfig())
    (tmp_path / "scans" / "Mueller").mkdir()
    case = sorted(path.name for path in (tmp_path / "scans").iterdir() if path.name != "Mueller")[0]
    assert made
    assert privacy.hide(f"{case} failed") == f"{hiding.of(case)} failed"
    assert privacy.hide(f"{tmp_path}/scans/{case}/ct.nii.gz") == f"{tmp_path}/scans/{hiding.of(case)}/ct.nii.gz"
    assert "Mueller" not in privacy.hide(f"{tmp_path}/scans/Mueller is empty")


def test_a_folder_without_a_usable_case_names_none(tmp_path: Path, hiding: Pseudonyms) -> None:
    for name in ("images", "labels"):
        (tmp_path / "Mueller" / name).mkdir(parents=True)
    (tmp_path / "Mueller" / "labels" / "Meyer.nii.gz").write_bytes(b"")
    with pytest.raises(UsageError) as caught:
        discover(str(tmp_path / "Mueller"), IngestConfig())
    assert "Meyer" not in privacy.hide(str(caught.value))


def test_the_key_of_a_file_goes_before_that_of_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER", "0123456789abcdef")
    file = tmp_path / "key"
    file.write_text("the key of the house\n")
    file.chmod(0o600)
    assert named_key(PrivacyConfig(key_file=str(file), key_variable="OTHER")) == b"the key of the house"
    assert named_key(PrivacyConfig(key_variable="OTHER")) == b"0123456789abcdef"
    assert named_key(PrivacyConfig()) is None


@pytest.mark.parametrize(
    ("content", "rights", "words"),
    [
        ("the key of the house", 0o604, "All users may read"),
        ("short", 0o600, "has 5 bytes"),
        (None, 0, "cannot be read"),
    ],
)
def test_a_key_that_will_not_do_is_refused(tmp_path: Path, content: str | None, rights: int, words: str) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content)
        file.chmod(rights)
    settings = PrivacyConfig(hash_ids=True, key_file=str(file))
    with pytest.raises(UsageError, match=words) as caught:
        privacy.begin(settings, str(tmp_path))
    assert content is None or content not in str(caught.value)


def test_a_run_without_a_key_keeps_one_for_its_owner(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        told = privacy.begin(HIDDEN, str(tmp_path / "run"))
    finally:
        os.umask(before)
    file = tmp_path / "run" / OWN_KEY
    assert told.key_file == str(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(file.read_text().strip()) == 64
    first = privacy.hide_case("s0001")
    assert own_key_file(str(tmp_path / "run")) == str(file)
    privacy.begin(told, str(tmp_path / "run"))
    assert privacy.hide_case("s0001") == first
    assert [path.name for path in file.parent.iterdir()] == [OWN_KEY]
    privacy.begin(HIDDEN, str(tmp_path / "other"))
    assert privacy.hide_case("s0001") != first


def test_a_run_folder_that_was_moved_has_its_key_with_it(tmp_path: Path) -> None:
    told = privacy.begin(HIDDEN, str(tmp_path / "run"))
    first = privacy.hide_case("s0001")
    (tmp_path / "run").rename(tmp_path / "moved")
    assert privacy.begin(told, str(tmp_path / "moved")).key_file == str(tmp_path / "moved" / OWN_KEY)
    assert privacy.hide_case("s0001") == first


def test_an_object_store_is_no_place_for_a_key() -> None:
    with pytest.raises(UsageError, match="no owner of a file"):
        privacy.begin(HIDDEN, "s3://bucket/run")


def test_no_key_stands_in_what_is_printed_of_settings_and_pseudonyms(hiding: Pseudonyms) -> None:
    assert "sixteen" not in repr(hiding)
    assert "sixteen" not in str(load_config(None, ["privacy.hash_ids=true"]).model_dump())


def test_a_process_without_the_key_names_nobody(tmp_path: Path) -> None:
    settings = PrivacyConfig(hash_ids=True, key_file=str(tmp_path / "elsewhere"))
    privacy.join(settings, ["/data"])
    privacy.know(["s0001"], "case")
    assert privacy.hide("s0001: /data/Mueller/ct.nii.gz") == f"case-{'0' * 16}: /data/name-{'0' * 16}/ct.nii.gz"


def test_a_task_hides_what_its_driver_hides(hiding: Pseudonyms, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(case: str) -> str:
        return privacy.hide(f"/data/{case}/x.nii.gz")

    task = privacy.discreet(said)
    privacy.forget()
    assert said("Mueller") == "/data/Mueller/x.nii.gz"
    assert task("Mueller") == f"/data/{hiding.of('Mueller', 'name')}/{hiding.of('x', 'name')}.nii.gz"
    privacy.forget()
    assert privacy.discreet(said) is said


def test_what_a_task_raises_is_hidden(hiding: Pseudonyms) -> None:
    def broken() -> None:
        raise CaseError("/data/Mueller/x.nii.gz cannot be read.") from OSError("/data/Mueller/x.nii.gz")

    with pytest.raises(CaseError) as caught:
        privacy.discreet(broken)()
    assert "Mueller" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_errors_that_others_write_down_are_hidden(hiding: Pseudonyms) -> None:
    found = privacy.hidden_error(CaseError("The case s0001 is broken.", mend="Look at /data/Mueller/x.nii."))
    assert isinstance(found, CaseError)
    assert "s0001" not in str(found)
    assert "Mueller" not in found.mend
    lost = privacy.hidden_error(FileNotFoundError("/data/Mueller.nii"))
    assert str(lost).startswith("FileNotFoundError: /data/name-")
    assert isinstance(privacy.hidden_error(FileNotFoundError("x")), OSError)
    assert not isinstance(privacy.hidden_error(KeyError("s0001")), SegrayError)


def test_logging_warnings_and_tracebacks_pass_the_one_place(tmp_path: Path) -> None:
    program = """
import logging, sys, warnings
from segray import privacy
from segray.config import PrivacyConfig
privacy.begin(PrivacyConfig(hash_ids=True), sys.argv[1])
privacy.know(["s0001"], "case")
logging.getLogger("a.library").warning("reading %s", "s0001")
logging.getLogger("pydicom").warning("Invalid value for VR PN: Mueller")
warnings.warn("s0001 is odd")
try:
    raise ValueError("s0001")
except ValueError:
    logging.getLogger("a.library").exception("of %s", "s0001")
raise RuntimeError("s0001 is broken")
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert "s0001" not in said.replace('"s0001', "")
    assert "Mueller" not in said
    case = Pseudonyms((tmp_path / OWN_KEY).read_text().strip().encode()).of("s0001")
    for words in ("reading", "of", "ValueError:", "RuntimeError:", "UserWarning:"):
        assert f"{words} {case}" in said, said


def test_hiding_changes_no_record_that_names_nobody(hiding: Pseudonyms) -> None:
    made = logging.getLogRecordFactory()("x", logging.INFO, "file", 1, "%d of %s", (1, "two"), None)
    assert made.getMessage() == "1 of two"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn("nothing", stacklevel=1)
    assert str(caught[0].message) == "nothing"
