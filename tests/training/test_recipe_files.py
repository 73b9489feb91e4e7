"""Recipes as YAML: inheritance, overrides, the way back, and every mistake in a sentence."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from suffuse.base.errors import UsageError
from suffuse.process import UniformIndices
from suffuse.sampling import CFG, DDIM
from suffuse.training.recipe import Recipe
from suffuse.training.recipe_files import SHORT, dump_recipe, list_recipes, load_recipe, merged, read_recipe_file

Make = Callable[..., Recipe]
PLAIN = "data: digits\npath: {kind: vp, steps: 1000}\nprediction: eps\n"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """write(text, name="recipe.yaml") -> the file's path."""

    def make(text: str, name: str = "recipe.yaml") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return make


# Reading


def test_bare_names_and_mappings_are_the_same(write: Callable[..., str]) -> None:
    bare = load_recipe(write(PLAIN))
    written_out = load_recipe(write(PLAIN.replace("digits", "{kind: digits}").replace(": eps", ": {kind: eps}")))
    assert bare == written_out


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("1E-4", 1e-4), ("1.e-4", 1e-4), (".5e-3", 5e-4), ("+2e-4", 2e-4), ("0.0002", 2e-4), ("1", 1.0)],
)
def test_floats_are_floats_as_people_write_them(write: Callable[..., str], text: str, value: float) -> None:
    """YAML 1.1 takes 1e-4 for text."""
    assert load_recipe(write(f"{PLAIN}optimiser: {{lr: {text}}}")).optimiser.lr == value
    assert load_recipe(write(PLAIN), [f"optimiser.lr={text}"]).optimiser.lr == value


def test_infinity_is_a_float_and_words_are_not(write: Callable[..., str]) -> None:
    tree = read_recipe_file(write("a: .inf\nb: -.inf\nc: e4\nd: 1-4\ne: 2024-01-01\n"))
    assert tree == {"a": math.inf, "b": -math.inf, "c": "e4", "d": "1-4", "e": "2024-01-01"}


# Inheritance


def test_a_base_is_merged_key_by_key(write: Callable[..., str], tmp_path: Path) -> None:
    write(PLAIN + "optimiser: {lr: 1e-3, warmup: 7}\ntime: {kind: shared, below: 50, intervals: 2}\n", "one.yaml")
    write(f"base: {tmp_path}/one.yaml\noptimiser: {{lr: 2e-3}}\n", "two.yaml")
    recipe = load_recipe(write("base: two.yaml\ntime: {below: 60}\n", "three.yaml"))  # beside the file itself
    assert (recipe.optimiser.lr, recipe.optimiser.warmup) == (2e-3, 7)
    assert recipe.time.dump() == {**recipe.time.dump(), "kind": "shared", "below": 60, "intervals": 2}


def test_another_kind_replaces_the_whole_part() -> None:
    base = {"path": {"kind": "vp", "steps": 1000}, "keep": {"a": 1, "b": {"c": 2}}}
    assert merged(base, {"path": {"kind": "flow"}})["path"] == {"kind": "flow"}
    assert merged(base, {"path": {"kind": "vp", "schedule": "cosine"}})["path"] == {
        "kind": "vp",
        "steps": 1000,
        "schedule": "cosine",
    }
    assert merged(base, {"path": "edm"})["path"] == "edm"
    assert merged(base, {"keep": {"b": {"d": 3}}})["keep"] == {"a": 1, "b": {"c": 2, "d": 3}}
    assert base == {"path": {"kind": "vp", "steps": 1000}, "keep": {"a": 1, "b": {"c": 2}}}  # unchanged


def test_changes_reach_into_a_bare_name() -> None:
    assert merged({"solver": "ddim"}, {"solver": {"eta": 1}}) == {"solver": {"kind": "ddim", "eta": 1}}
    assert merged({"solver": "ddim"}, {"solver": {"kind": "heun"}}) == {"solver": {"kind": "heun"}}
    assert merged({"network": "auto"}, {"network": {"kind": "dit"}}) == {"network": {"kind": "dit"}}


def test_a_circle_of_bases_is_refused(write: Callable[..., str], tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    write(f"base: {two}", "one.yaml")
    write(f"base: {one}", "two.yaml")
    with pytest.raises(UsageError, match=rf"recipe '{one}' is its own base \({one} -> {two} -> {one}\); remove one"):
        load_recipe(str(one))


def test_a_base_that_is_not_there_is_named(write: Callable[..., str]) -> None:
    with pytest.raises(UsageError, match="recipe 'digits-dpm' does not exist; did you mean 'digits-ddpm'"):
        load_recipe(write("base: digits-dpm"))


# Overrides


def test_steps_replace_a_recipe_s_budget_of_time() -> None:
    assert load_recipe("folder-fewstep").training.minutes == 14
    assert load_recipe("folder-fewstep", ["steps=3000"]).training.minutes is None
    assert load_recipe("folder-fewstep", ["training.steps=3000"]).training.minutes is None
    assert load_recipe("folder-fewstep", ["minutes=2", "batch=8"]).training.minutes == 2


def test_short_overrides_are_the_dotted_ones(write: Callable[..., str]) -> None:
    file = write(PLAIN)
    values = {
        "size": 14,
        "steps": 7,
        "minutes": 2.5,
        "batch": 9,
        "seed": 3,
        "device": "cpu",
        "precision": "bfloat16",
        "checkpoint_every": 5,
    }
    assert values.keys() == SHORT.keys()
    for budget in ("steps", "minutes"):  # one of the two
        told = {key: value for key, value in values.items() if key not in {"steps", "minutes"} - {budget}}
        short = load_recipe(file, [f"{key}={value}" for key, value in told.items()])
        assert short == load_recipe(file, [f"{SHORT[key]}={value}" for key, value in told.items()])
    short = load_recipe(file, ["steps=7", "batch=9", "size=14"])
    assert (short.training.steps, short.training.batch, short.data.dump()["size"]) == (7, 9, 14)


def test_dotted_overrides_reach_any_depth_and_any_form(write: Callable[..., str]) -> None:
    recipe = load_recipe(
        write(PLAIN + "objective: {kind: denoising, noise_levels: indices}\nsampling: {solver: ddim}\n"),
        [
            "objective.noise_levels.stratified=true",
            "sampling.solver.eta=0.5",
            "sampling.guidance={kind: cfg, scale: 2}",
            "training.ema=[10, 20]",
            "optimiser.clip=null",
            "network={kind: unet, channels: 8, groups: 4, multipliers: [1, 2]}",
            "network.blocks=1",
        ],
    )
    assert recipe.objective.dump()["noise_levels"] == UniformIndices(stratified=True).dump()
    assert recipe.sampling.solver == DDIM(eta=0.5)
    assert recipe.sampling.guidance == CFG(scale=2)
    assert (recipe.training.ema, recipe.optimiser.clip) == ((10.0, 20.0), None)
    assert (recipe.network.channels, recipe.network.blocks) == (8, 1)  # type: ignore[union-attr]


def test_the_last_of_two_overrides_counts(write: Callable[..., str]) -> None:
    assert load_recipe(write(PLAIN), ["steps=3", "training.steps=4"]).training.steps == 4


def test_data_is_a_kind_or_a_place(write: Callable[..., str], tmp_path: Path) -> None:
    file = write(PLAIN)
    assert load_recipe(file, ["data=mixture"]).data.kind == "mixture"
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    recipe = load_recipe(file, [f"data={pictures}", "size=16"])
    assert (recipe.data.kind, recipe.data.dump()["path"], recipe.data.dump()["size"]) == ("images", str(pictures), 16)


def test_out_is_text_whatever_it_looks_like(write: Callable[..., str]) -> None:
    assert load_recipe(write(PLAIN), ["out=2024"]).out == "2024"
    assert load_recipe(write(PLAIN), ["out=a: b"]).out == "a: b"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps", "override 'steps' is not key=value; write for example steps=200 or optimiser.lr=1e-4"),
        ("=3", "override '=3' is not key=value"),
        ("stesp=3", "recipe key 'stesp' does not exist; did you mean 'steps'"),
        ("optimizer.lr=1", r"recipe key 'optimizer.lr' does not exist; did you mean 'optimiser'"),
        ("optimiser.rl=1", "no key 'optimiser.rl'; did you mean 'lr'"),
        ("training.ema=[1", r"override 'training.ema=\[1': the value is not YAML; quote it"),
        ("steps=0", r"training.steps: Input should be greater than or equal to 1 \(got 0\)"),
        ("steps=many", r"training.steps: .* integer.* \(got 'many'\)"),
        ("batch=-1", r"training.batch: Input should be greater than or equal to 1 \(got -1\)"),
        (
            "data=digitz",
            "data 'digitz' is neither a folder or zip that is there nor a kind of data; did you mean 'digits'",
        ),
        ("path.schedule=cosin", r"path.*schedule: .*'cosine'.*\(got 'cosin'\)"),
        ("network=unett", "network 'unett' does not exist; did you mean 'unet'"),
    ],
)
def test_a_wrong_override_is_explained(write: Callable[..., str], override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_recipe(write(PLAIN), [override])


# Files that are no recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "recipe.yaml is not YAML: "),
        ("- a\n- b\n", "recipe.yaml must hold keys and values, not list"),
        ("just words", "recipe.yaml must hold keys and values, not str"),
        ("", "recipe.yaml must hold keys and values, not NoneType"),
        (PLAIN + "path: flow\n", "recipe.yaml is not YAML: the key 'path' stands twice"),
        (PLAIN + "training: {steps: 1, steps: 2}\n", "the key 'steps' stands twice"),
        ("[a, b]: c\n", "recipe.yaml is not YAML: a key must be a plain name"),
        ("a: !!python/object/apply:os.getcwd []\n", "recipe.yaml is not YAML: could not determine a constructor"),
        (PLAIN + "1: 2\n", "recipe"),
        (PLAIN + "optimizer: {lr: 1}\n", "has no key 'optimizer'; did you mean 'optimiser'"),
        ("data: digits\n", "path: Field required"),
    ],
    ids=range(11),
)
def test_a_file_that_is_no_recipe_is_explained(write: Callable[..., str], text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_recipe(write(text))


def test_a_recipe_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"recipe file .*/no.yaml does not exist; give a file, or one of: cifar10-ddpm, "
    ):
        load_recipe(str(tmp_path / "no.yaml"))
    with pytest.raises(UsageError, match="recipe 'digit-etsdm' does not exist; did you mean 'digits-etsdm'"):
        load_recipe("digit-etsdm")
    with pytest.raises(UsageError, match=r"recipe file .* does not exist"):
        load_recipe(str(tmp_path))  # a folder


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "picture.yaml").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(UsageError, match=r"recipe file .*picture.yaml cannot be read as text \(.*\); give a YAML file"):
        load_recipe(str(tmp_path / "picture.yaml"))


def test_the_recipes_of_the_package_are_listed() -> None:
    names = list_recipes()
    assert names == tuple(sorted(names))
    assert {"digits-ddpm", "digits-etsdm", "folder"} <= set(names)


# And back


def test_a_written_recipe_reads_back_as_an_equal_one(tiny: Make, write: Callable[..., str]) -> None:
    recipe = tiny(
        ema=[1e-5, 1e22],
        tree={"about": "größer: 'quoted' # and more", "optimiser": {"eps": 1e-12, "clip": None}, "out": "runs/ä"},
    )
    assert load_recipe(write(dump_recipe(recipe))) == recipe


@pytest.mark.parametrize(
    "text", ["1e-4", "1_000", "null", "true", "2024-01-01", "~", ".inf", "0x1f", "a: b", "- a", ""]
)
def test_text_that_looks_like_something_else_stays_text(tiny: Make, write: Callable[..., str], text: str) -> None:
    recipe = tiny(tree={"about": text, "out": text})
    assert load_recipe(write(dump_recipe(recipe))) == recipe


def test_the_order_of_overrides_loses_none(write: Callable[..., str]) -> None:
    file = write(PLAIN)
    for pair in (["size=14", "data=shapes"], ["network.width=7", "network.kind=mlp"]):
        assert load_recipe(file, pair) == load_recipe(file, pair[::-1])
    chosen = load_recipe(file, ["network.channels=64", "network.kind=unet"]).network
    assert chosen.channels == 64  # type: ignore[union-attr]


def test_another_optimiser_keeps_the_recipe_s_rate(write: Callable[..., str]) -> None:
    file = write(PLAIN + "optimiser: {lr: 0.002, warmup: 100, decay: cosine}\n")
    found = load_recipe(file, ["optimiser.betas=[0.9, 0.99]", "optimiser.kind=radam"]).optimiser
    assert (found.kind, found.lr, found.warmup, found.decay, found.betas) == (
        "radam",
        0.002,
        100,
        "cosine",
        (0.9, 0.99),
    )


def test_what_cannot_be_meant_is_refused(write: Callable[..., str]) -> None:
    file = write(PLAIN)
    for pairs, words in (
        (["steps=100", "minutes=3"], "steps and minutes both say how long to train"),
        (["out="], "'out=' has no value"),
        (["data="], "'data=' has no value"),
        (["training.ema=[.nan]"], "must be different half-lives above 0"),
        (["training.ema=[1000.2, 1000.4]"], "must be different half-lives above 0, in whole images"),
        (["optimiser.betas=[0.9, 1.5]"], "less than 1"),
        (["minutes=.inf"], "finite number"),
    ):
        with pytest.raises(UsageError, match=words):
            load_recipe(file, pairs)
