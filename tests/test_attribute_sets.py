"""The sets of examples/attributes: read as published, split without a leak, converted."""

import json
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path
from types import ModuleType

import pytest

from bayes_lora.data import Task, check_attributes, levels_of, read_tabular
from bayes_lora.errors import ConfigError, InputDataError

FOLDER = Path(__file__).parents[1] / "examples" / "attributes"
REAL = {
    "fdu-mtl": "fdu_mtl",
    "four-authors": "pang_lee_scaledata_4authors",
    "yelp": "yelp10k_users",
}
ATTRIBUTES = {
    "fdu-mtl": ("domain",),
    "four-authors": ("author",),
    "yelp": ("user_id", "business_id"),
}


@pytest.fixture(scope="module")
def sets() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        import sets

        return sets


@pytest.fixture(scope="module")
def convert(sets: ModuleType) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        import convert

        return convert


def same_text(text: str) -> str:
    return " ".join(text.split()).casefold()


def texts(task: Task) -> set[str]:
    return {same_text(row.input) for row in task.examples}


def rows(task: Task) -> set[str]:
    return {row.where for row in task.examples}


def domains(task: Task) -> Counter[str]:
    return Counter(row.attributes["domain"] for row in task.examples)


@pytest.fixture
def fdu(tmp_path: Path) -> Path:
    """Two domains of 300 train and 4 test rows; one line has no text, one is latin-1."""
    for domain in ("books", "toys"):
        lines = [f"{n % 2}\t{domain} number {n}".encode() for n in range(300)]
        lines[1] = b"1\tcaf\xe9 " + domain.encode()
        lines[2] = b"0\t "
        lines[3] = lines[4]  # a repeat, which dev and train must not share
        (tmp_path / f"{domain}.task.train").write_bytes(b"\n".join(lines) + b"\n")
        # The other domain's text leaks too, whatever its case.
        test = [b"1\tnew %d of " % n + domain.encode() for n in range(3)] + [b"1\tTOYS  number 5"]
        (tmp_path / f"{domain}.task.test").write_bytes(b"\n".join(test))
    return tmp_path


@pytest.fixture
def authors(tmp_path: Path) -> Path:
    for author, length in (("Ann+Lee", 40), ("Bo", 21)):
        folder = tmp_path / author
        folder.mkdir()
        lines = [f"{author} film {n} " for n in range(length)]
        lines[5] = ""
        (folder / f"subj.{author}").write_text("\n".join(lines) + "\n")
        labels = "".join(f"{n % 3}\n" for n in range(length))
        (folder / f"label.3class.{author}").write_text(labels)
    (tmp_path / "SOURCE.txt").write_text("by hand")
    return tmp_path


def write_yelp(folder: Path, reviews: list[tuple[str, str, str, str]]) -> Path:
    lines = [f'{place},2011-01-26,{stars},"{text}",{user}' for user, place, stars, text in reviews]
    header = "business_id,date,stars,text,user_id"
    (folder / "yelp.csv").write_text("\n".join([header, *lines]) + "\n")
    return folder


@pytest.fixture
def yelp(tmp_path: Path) -> Path:
    reviews = [(f"u{n % 7}", f"b{n % 11}", str(n % 5 + 1), f"Dish\n{n}.") for n in range(50)]
    return write_yelp(tmp_path, reviews)


def test_fdu_mtl_is_one_task_with_its_domains(sets: ModuleType, fdu: Path) -> None:
    task = sets.read_fdu_mtl(fdu, "train")
    assert (task.name, task.split, task.options) == ("fdu-mtl", "train", ("negative", "positive"))
    assert levels_of([task], "domain").names == ("books", "toys")
    assert domains(task) == {"books": 299, "toys": 299}
    assert "café books" in texts(task)
    assert [w.removeprefix("dropped, without a text: ") for w in task.warnings] == [
        "books.task.train, line 3",
        "toys.task.train, line 3",
    ]


def test_fdu_mtl_split(sets: ModuleType, fdu: Path) -> None:
    one, other = (sets.load("fdu-mtl", fdu, seed, 20) for seed in (0, 1))
    assert (one.dev, one.test) == (other.dev, other.test)
    assert rows(one.train) != rows(other.train)
    assert (one.train.split, one.dev.split, one.test.split) == ("train", "dev", "test")
    assert domains(one.dev) == {"books": 100, "toys": 100}
    assert domains(one.train) == {"books": 20, "toys": 20}
    assert len(one.test) == 8
    for task, further in combinations((one.train, one.dev, one.test), 2):
        assert not texts(task) & texts(further)
    dropped = [warning for warning in one.train.warnings if "also in" in warning]
    assert dropped[0] == "1 row dropped, also in the test tasks: 'toys.task.train, line 6'"


def test_fdu_mtl_without_a_size_takes_all_that_is_left(sets: ModuleType, fdu: Path) -> None:
    whole, part = sets.load("fdu-mtl", fdu, 0), sets.load("fdu-mtl", fdu, 5, 150)
    assert whole.dev == part.dev
    assert len(whole.train) + len(whole.dev) >= 2 * 299 - 1 - 2  # the leak, and the repeats
    assert rows(part.train) < rows(whole.train)
    assert whole.train == sets.load("fdu-mtl", fdu, 1).train


def test_smaller_trains_of_a_seed_are_in_larger_ones(sets: ModuleType, fdu: Path) -> None:
    small, large = (sets.load("fdu-mtl", fdu, 3, size).train for size in (8, 64))
    assert rows(small) < rows(large)


def test_a_domain_draws_the_same_rows_whatever_others_there_are(
    sets: ModuleType, fdu: Path
) -> None:
    both = rows(sets.load("fdu-mtl", fdu, 0, 20).train)
    (fdu / "toys.task.train").unlink()
    (fdu / "toys.task.test").unlink()
    alone = rows(sets.load("fdu-mtl", fdu, 0, 20).train)
    assert alone == {where for where in both if where.startswith("books")}


@pytest.mark.parametrize("line", [b"", b"2\tgood", b"good"])
def test_fdu_mtl_wrong_label(sets: ModuleType, fdu: Path, line: bytes) -> None:
    path = fdu / "toys.task.train"
    path.write_bytes(line + b"\n" + path.read_bytes())
    with pytest.raises(InputDataError, match=r"toys\.task\.train, line 1: the label is"):
        sets.load("fdu-mtl", fdu, 0)


def test_fdu_mtl_missing_files(sets: ModuleType, fdu: Path, tmp_path: Path) -> None:
    (fdu / "toys.task.test").unlink()
    with pytest.raises(InputDataError, match=r"toys\.task\.test': no such file"):
        sets.load("fdu-mtl", fdu, 0)
    for folder in (tmp_path / "absent", FOLDER):
        with pytest.raises(InputDataError, match=r"no \.task\.train files"):
            sets.load("fdu-mtl", folder, 0)


@pytest.mark.parametrize(("size", "message"), [(0, "1 or more"), (250, "rows of 'books'")])
def test_sizes_that_cannot_be(sets: ModuleType, fdu: Path, size: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sets.load("fdu-mtl", fdu, 0, size)


def test_unknown_set_and_seed(sets: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no set 'imdb'; the sets are 'fdu-mtl'"):
        sets.load("imdb", tmp_path, 0)
    with pytest.raises(ConfigError, match="seed"):
        sets.load("yelp", tmp_path, -1)


def test_four_authors_is_one_task_with_its_authors(sets: ModuleType, authors: Path) -> None:
    task = sets.read_four_authors(authors)
    assert task.options == ("negative", "neutral", "positive")
    assert levels_of([task], "author").counts == (39, 20)
    assert levels_of([task], "author").names == ("Ann Lee", "Bo")
    assert task.labels[:6] == [0, 1, 2, 0, 1, 0]  # the sixth has no text
    assert task.warnings == ("dropped, without a text: subj.Ann+Lee, line 6, subj.Bo, line 6",)


def test_four_authors_split(sets: ModuleType, authors: Path) -> None:
    one, other = sets.load("four-authors", authors, 0), sets.load("four-authors", authors, 1)
    assert one == other
    assert [levels_of([part], "author").counts for part in (one.test, one.dev, one.train)] == [
        (8, 4),
        (4, 2),
        (27, 14),
    ]
    assert len(rows(one.test) | rows(one.dev) | rows(one.train)) == 59


def test_four_authors_refusals(sets: ModuleType, authors: Path) -> None:
    labels = authors / "Bo" / "label.3class.Bo"
    written = labels.read_text()
    for label in ("3", "", "good"):
        labels.write_text(label + written[1:])
        with pytest.raises(InputDataError, match=r"label\.3class\.Bo, line 1: the label is"):
            sets.read_four_authors(authors)
    labels.write_text(written[2:])
    with pytest.raises(InputDataError, match=r"subj\.Bo has 21 lines and label\.3class\.Bo has 20"):
        sets.read_four_authors(authors)
    labels.unlink()
    with pytest.raises(InputDataError, match=r"label\.3class\.Bo': no such file"):
        sets.read_four_authors(authors)
    (authors / "Bo" / "subj.Bo").write_bytes(b"caf\xe9\n")
    with pytest.raises(InputDataError, match=r"subj\.Bo, line 1: byte 0xe9, which is not UTF-8"):
        sets.read_four_authors(authors)
    with pytest.raises(InputDataError, match=r"no \*/subj\.\* files"):
        sets.read_four_authors(FOLDER)


def test_yelp_is_one_task_with_two_attributes(sets: ModuleType, yelp: Path) -> None:
    task = sets.read_yelp(yelp)
    assert (task.options, task.attributes) == (tuple("12345"), ("user_id", "business_id"))
    assert (len(levels_of([task], "user_id")), len(levels_of([task], "business_id"))) == (7, 11)
    assert task.examples[3].input == "Dish\n3."
    assert task.examples[3].attributes == {"user_id": "u3", "business_id": "b3"}
    assert task.labels[:6] == [0, 1, 2, 3, 4, 0]


def test_yelp_split(sets: ModuleType, yelp: Path) -> None:
    one, other = sets.load("yelp", yelp, 0), sets.load("yelp", yelp, 1, 12)
    assert (one.test, one.dev) == (other.test, other.dev)
    assert [len(part) for part in (one.test, one.dev, one.train, other.train)] == [10, 5, 35, 12]
    with pytest.raises(ConfigError, match="36 rows of 'yelp' are asked for, and 35 are left"):
        sets.load("yelp", yelp, 0, 36)


def test_yelp_repeats_and_empty_texts(sets: ModuleType, tmp_path: Path) -> None:
    reviews = [("u", "b", "5", "Great."), ("v", "b", "4", " "), ("w", "", "3", "great. ")] * 10
    write_yelp(tmp_path, reviews)
    with pytest.raises(InputDataError, match="all its rows also stand in the test tasks"):
        sets.load("yelp", tmp_path, 0)
    task = sets.read_yelp(tmp_path)
    assert len(task) == 20
    assert task.warnings[0].startswith("dropped, without a text: yelp.csv, row 3, ")
    assert levels_of([task], "business_id").counts == (10,)


def test_yelp_refusals(sets: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(InputDataError, match="no such file"):
        sets.read_yelp(tmp_path)
    write_yelp(tmp_path, [("u", "b", "5", "Fine."), ("v", "b", "6", "Fine, too.")])
    with pytest.raises(InputDataError, match=r"yelp\.csv, row 3: the stars are '6', not 1 to 5"):
        sets.read_yelp(tmp_path)
    (tmp_path / "yelp.csv").write_text("text,stars,user\nFine.,5,u\n")
    with pytest.raises(InputDataError, match="no column 'user_id', 'business_id'; the columns are"):
        sets.read_yelp(tmp_path)
    (tmp_path / "yelp.csv").write_bytes(b"text,stars,user_id,business_id\ncaf\xe9,5,u,b\n")
    with pytest.raises(InputDataError, match="not UTF-8"):
        sets.read_yelp(tmp_path)


def test_shuffling_permutes_values_among_a_share_of_the_rows(sets: ModuleType, yelp: Path) -> None:
    task = sets.read_yelp(yelp)
    mixed = sets.shuffled(task, ("user_id", "business_id"), 0.4, 0)
    assert mixed.warnings == ("'user_id', 'business_id' of 20 rows shuffled (seed 0)",)
    assert mixed == sets.shuffled(task, ("user_id", "business_id"), 0.4, 0)
    assert mixed != sets.shuffled(task, ("user_id", "business_id"), 0.4, 1)
    pairs = list(zip(task.examples, mixed.examples, strict=True))
    assert all((a.input, a.label, a.where) == (b.input, b.label, b.where) for a, b in pairs)
    assert 10 < sum(a.attributes != b.attributes for a, b in pairs) <= 20
    for name in ("user_id", "business_id"):
        assert levels_of([mixed], name) == levels_of([task], name)
    moved = {
        name: {n for n, (a, b) in enumerate(pairs) if a.attributes[name] != b.attributes[name]}
        for name in ("user_id", "business_id")
    }
    assert moved["user_id"] != moved["business_id"]
    assert len(moved["user_id"] | moved["business_id"]) <= 20


def test_shuffling_leaves_the_rest_alone(sets: ModuleType, yelp: Path) -> None:
    task = sets.read_yelp(yelp)
    assert sets.shuffled(task, ("user_id",), 0.0, 0).examples == task.examples
    mixed = sets.shuffled(task, ("user_id",), 1.0, 0)
    pairs = list(zip(task.examples, mixed.examples, strict=True))
    assert all(a.attributes["business_id"] == b.attributes["business_id"] for a, b in pairs)
    assert task == sets.read_yelp(yelp)
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            sets.shuffled(task, ("user_id",), share, 0)
    with pytest.raises(ConfigError, match="no attribute 'user'"):
        sets.shuffled(task, ("user",), 0.5, 0)


def test_convert_writes_what_bayes_lora_reads(
    convert: ModuleType,
    sets: ModuleType,
    fdu: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = fdu / "out"
    arguments = ["fdu-mtl", str(fdu), "--out", str(out), "--size", "12", "--seed", "3"]
    monkeypatch.setattr(sys, "argv", ["convert.py", *arguments])
    convert.main()
    split = sets.load("fdu-mtl", fdu, 3, 12)
    for part in ("train", "dev", "test"):
        written = read_tabular(out / f"{part}.jsonl")
        assert (written.name, written.options) == (part, ("negative", "positive"))
        expected = getattr(split, part)
        assert same_rows(written, expected)
        assert check_attributes([written], ["domain"]) == ()
    printed = capsys.readouterr()
    assert "train.jsonl: 24 rows, attributes domain" in printed.out
    assert "warning: dropped, without a text: books.task.train, line 3" in printed.err


def test_convert_says_what_is_wrong(
    convert: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["yelp", str(tmp_path), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["convert.py", *arguments])
    with pytest.raises(SystemExit) as caught:
        convert.main()
    assert caught.value.code == 2
    assert "no such file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def same_rows(one: Task, other: Task) -> bool:
    return [(r.input, r.options, r.label, r.attributes) for r in one.examples] == [
        (r.input, r.options, r.label, r.attributes) for r in other.examples
    ]


@pytest.fixture(scope="module")
def real(sets: ModuleType, data_folder: Path) -> dict:
    """Each real set whole, and with 16 rows by another seed."""
    return {
        name: (
            sets.load(name, data_folder / folder, 0),
            sets.load(name, data_folder / folder, 1, 16),
        )
        for name, folder in REAL.items()
    }


@pytest.mark.parametrize("name", list(REAL))
def test_no_text_of_a_real_set_stands_in_two_splits(real: dict, name: str) -> None:
    whole, small = real[name]
    assert (whole.test, whole.dev) == (small.test, small.dev)
    assert rows(small.train) < rows(whole.train)
    for one, other in combinations((whole.train, whole.dev, whole.test), 2):
        assert not texts(one) & texts(other)
        assert not rows(one) & rows(other)


@pytest.mark.parametrize("name", list(REAL))
def test_real_attributes_can_be_fitted(real: dict, name: str) -> None:
    whole, _ = real[name]
    assert check_attributes([whole.train], ATTRIBUTES[name]) == ()
    assert {row.label for row in whole.train.examples} == set(range(len(whole.train.options)))


@pytest.mark.parametrize("name", list(REAL))
def test_a_real_set_survives_conversion(
    convert: ModuleType, real: dict, name: str, tmp_path: Path
) -> None:
    whole, _ = real[name]
    for task in (whole.train, whole.test):
        path = tmp_path / f"{task.split}.jsonl"
        convert.write_jsonl(task, path)
        assert same_rows(read_tabular(path), task)
        assert json.loads(path.read_text().split("\n")[0])["text"] == task.examples[0].input


def test_sizes_of_real_fdu_mtl(real: dict) -> None:
    whole, small = real["fdu-mtl"]
    assert (len(domains(whole.test)), set(domains(whole.test).values())) == (16, {400})
    assert domains(whole.dev) == dict.fromkeys(domains(whole.test), 100)
    assert domains(small.train) == dict.fromkeys(domains(whole.test), 16)
    # Some 900 rows of 25,379 repeat others; of "video" and "magazines" hundreds stand in test.
    assert min(domains(whole.train).values()) > 1200
    assert len(whole.train) > 22_500


def test_sizes_of_real_four_authors(real: dict) -> None:
    whole, small = real["four-authors"]
    published = {
        "Dennis Schwartz": 1027,
        "James Berardinelli": 1307,
        "Scott Renshaw": 902,
        "Steve Rhodes": 1770,
    }
    tests = levels_of([whole.test], "author")
    assert dict(zip(tests.names, tests.counts, strict=True)) == {
        author: round(0.2 * rows) for author, rows in published.items()
    }
    parts = (whole.train, whole.dev, whole.test)
    assert sum(published.values()) - 40 < sum(map(len, parts)) <= sum(published.values())
    assert set(levels_of([small.train], "author").counts) == {16}


def test_sizes_of_real_yelp(sets: ModuleType, real: dict, data_folder: Path) -> None:
    whole, small = real["yelp"]
    assert (len(whole.test), len(whole.dev), len(small.train)) == (2000, 1000, 16)
    assert 6990 <= len(whole.train) <= 7000
    every = sets.read_yelp(data_folder / "yelp10k_users")
    assert [len(levels_of([every], name)) for name in ATTRIBUTES["yelp"]] == [6403, 4174]
    users = levels_of([whole.train], "user_id").index
    unseen = sum(row.attributes["user_id"] not in users for row in whole.test.examples)
    assert 0.4 < unseen / len(whole.test) < 0.7  # 4,869 of 10,000 reviews are a user's only one
