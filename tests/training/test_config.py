"""Every wrong field is one line that names it, what came and what is allowed."""

import ml_collections
import pytest

from l2rw_jax.training import ConfigError, default_config, validate

BAD = [
    ("method", "l2rv", r"config.method: got 'l2rv'; takes one of .*did you mean 'l2rw'\?"),
    ("seed", 2**40, r"config.seed: got 1099511627776; takes an integer below 2\*\*32"),
    ("boundaries", ("a",), r"config.boundaries: got \('a',\); takes distinct integers"),
    ("boundaries", (10, 10), r"config.boundaries: got \(10, 10\); takes distinct integers"),
    ("low", 1.0, r"config.low: got 1.0; takes less than config.high, which is 1.0"),
    ("learning_rate", float("nan"), r"config.learning_rate: got nan; takes a finite number"),
    ("clip_norm", float("inf"), r"config.clip_norm: got inf; takes a finite number"),
    ("steps", True, r"config.steps: got True; takes an integer"),
    ("method", None, r"config.method: got None; takes a text"),
    ("noise.background", -1, r"config.noise.background: got -1; takes a number that is at least 0"),
    ("seeds", 1_000_000, r"config.seeds: got 1000000; takes at most 1000"),
    ("micro_batches", 3, r"config.micro_batches: got 3; takes a divisor of .*; nearest: 2"),
    ("l2rw.mode", "backward", r"config.l2rw.mode: got 'backward'; takes forward, reverse"),
    ("fsdp", True, r"config.fsdp: got True; takes False where config.parallel is not jit"),
    ("parallel", "shard_map", r"config.parallel: got 'shard_map'; takes none, pmap, jit"),
    ("clean_smoothing", 1.0, r"config.clean_smoothing: got 1.0; takes a number in \[0, 1\)"),
    ("l2rw.min_weight", -0.1, r"config.l2rw.min_weight: got -0.1; takes a number that is at least"),
    ("ema", 1.0, r"config.ema: got 1.0; takes a number in \[0, 1\)"),
    ("noise.ratio", 0.4, r"config.noise.ratio: got 0.4; takes 0 while config.noise.kind is none"),
    ("dtype", "float31", r"config.dtype: got 'float31'; takes float32, bfloat16"),
    ("noise.kind", "unifrm", r"config.noise.kind: got 'unifrm'.*did you mean 'uniform'\?"),
    ("imbalance.kind", "longtail", r"config.imbalance.kind.*did you mean 'long_tail'\?"),
    ("noise.ratio", 1.0, r"config.noise.ratio: got 1.0; takes a number in \[0, 1\)"),
    ("noise.ratio", -0.1, r"config.noise.ratio: got -0.1; takes a number in \[0, 1\)"),
    ("imbalance.share", 1.0, r"config.imbalance.share: got 1.0; takes a number in \(0, 1\)"),
    ("dropout", 1.0, r"config.dropout: got 1.0; takes a number in \[0, 1\)"),
    ("batch_size", 0, r"config.batch_size: got 0; takes an integer above 0"),
    ("clean_batch_size", 101, r"config.clean_batch_size: got 101; takes at most .*clean_size=100"),
    ("learning_rate", 0.0, r"config.learning_rate: got 0.0; takes a rate above 0"),
    ("weight_decay", -1.0, r"config.weight_decay: got -1.0; takes a number that is at least 0"),
    ("steps", 250, r"config.steps: got 250; takes a multiple of config.log_every, which is 100"),
    ("eval_every", 150, r"config.eval_every: got 150; takes a multiple of config.log_every"),
]


@pytest.mark.parametrize(("field", "value", "message"), BAD)
def test_a_bad_value_is_refused_by_name(field, value, message):
    config = default_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError, match=message) as error:
        validate(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "nearest"), [("batchsize", "batch_size"), ("noise.ration", "ratio")]
)
def test_an_unknown_field_is_refused_with_the_nearest(field, nearest):
    config = default_config()
    with config.unlocked():
        config.update_from_flattened_dict({field: 1})
    with pytest.raises(ConfigError, match=rf"config.{field}: no such field.*{nearest}"):
        validate(config)


def test_a_field_that_moved_says_where():
    for field, told in {
        "replicas": "moved; it is config.seeds",
        "mode": "config.l2rw.mode",
    }.items():
        with pytest.raises(ConfigError, match=rf"config.{field}: .*{told}"):
            validate(ml_collections.ConfigDict({field: 2}))


def test_a_value_of_another_type_is_refused():
    config = default_config().to_dict()
    config["classes"] = "49"
    with pytest.raises(ConfigError, match=r"config.classes: got '49'; takes a tuple"):
        validate(ml_collections.ConfigDict(config))


def test_what_is_not_given_is_the_default_s():
    assert validate(ml_collections.ConfigDict({"noise": {"ratio": 0}})) == default_config()


def test_a_bool_is_no_number():
    with pytest.raises(ConfigError, match=r"config.dropout: got False; takes a number"):
        validate(ml_collections.ConfigDict({"dropout": False}))


def test_a_config_is_locked():
    with pytest.raises(AttributeError, match="stesp"):
        default_config().stesp = 3


def test_each_field_has_its_own_type():
    config = validate(ml_collections.ConfigDict({"dropout": 0, "classes": [1, 2]}))
    assert (type(config.dropout), config.classes) == (float, (1, 2))
