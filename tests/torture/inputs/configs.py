"""Configuration folders (``--config-dir``) and command lines that are not what they should be."""

from __future__ import annotations

from collections.abc import Iterator

from inputs.case import Bench, Case, Command
from inputs.damage import DAMAGES

_FILES: dict[str, tuple[str, str]] = {
    # What loss/mine.yaml holds; what the sentence names.
    "list": ("- 1\n- 2\n", "mine"),
    "number": ("5", "mine"),
    "text": ("loss", "mine"),
    "unclosed": ("epsilon: [", "mine"),
    "tab": ("a:\n\t- 1", "mine"),
    "two_documents": ("a: 1\n---\nb: 2\n", "mine"),
    "key_twice": ("name: a\nname: b\n", "mine"),
    "python_tag": ("a: !!python/object/apply:os.system [true]", "mine"),
    "unknown_tag": ("a: !secret 5", "mine"),
    "binary_tag": ("a: !!binary x", "mine"),
    "colon": ("a: b: c", "mine"),
    "at_sign": ("@a", "mine"),
    "alias_unknown": ("a: *b", "mine"),
    "alias": ("a: &b [1]\nc: *b\n", "mine"),
    "merge": ("a: &b {x: 1}\nc: {<<: *b}\n", "mine"),
    "defaults_unknown": ("defaults: [nothing]", "mine"),
    "defaults_number": ("defaults: 5", "defaults"),
    "defaults_itself": ("defaults: [mine]", "mine"),
    "no_target": ("name: mine", "loss"),
    "target_unknown": ("_target_: posematch.losses.Nothing\nname: mine", "posematch.losses.No"),
    "target_number": ("_target_: 5\nname: mine", "loss"),
    "extra_argument": ("_target_: posematch.losses.DotMSE\nname: mine\nspeed: 1", "speed"),
    "interpolation": ("_target_: posematch.losses.DotMSE\nname: ${nowhere}", "nowhere"),
    "interpolation_open": ("_target_: posematch.losses.DotMSE\nname: '${a'", "loss"),
    "interpolation_deep": ("name: '" + "${" * 500 + "a" + "}" * 500 + "'", "loss"),
    "resolver_unknown": ("_target_: posematch.losses.DotMSE\nname: '${sudo:1}'", "sudo"),
    "control_character": ("a: \x01", "mine"),
    "surrogate": ('a: "\\ud800"\n_target_: posematch.losses.DotMSE', "loss"),
    "key_list": ("? [1, 2]\n: 3", "mine"),
    "key_null": ("null: 3", "loss"),
    "long_number": ("a: " + "9" * 10_000, "loss"),
    "base_60": ("a: " + "1:" * 5_000 + "1", "loss"),
    "date": ("a: 2026-99-99", "mine"),
    "deep": ("a: " + "[" * 5_000 + "]" * 5_000, "mine"),
}
_OVERRIDES: dict[str, tuple[str, str]] = {
    "bracket_open": ("data.input_size=[64", "data.input_size"),
    "brace_open": ("+a={b:", "a={b:"),
    "quote_open": ("loss.name='a", "loss.name"),
    "deep": ("+a=" + "[" * 400 + "]" * 400, "a="),
    "interpolation_deep": ("loss.name=" + "${a" * 300 + "}" * 300, "loss.name"),
    "number_huge": ("data.batch_size=" + "9" * 5_000, "data.batch_size"),
    "float_huge": ("optimizer.lr=1e999", "optimizer.lr"),
    "size_huge": ("data.input_size=[3200000,3200000]", "data.input_size"),
    "nan": ("optimizer.lr=nan", "optimizer.lr"),
    "photos_huge": ("data.spec.train_photos=1e30", "photos"),
    "photo_px_huge": ("data.spec.max_photo_px=1000000000", "max_photo_px"),
    "null": ("data=null", "data"),
    "only_equals": ("=", "="),
    "delete_all": ("~data", "data"),
    "no_unicode": ("loss.name=\udcff", "loss.name"),
    "seed_float": ("seed=1.5", "seed"),
    "function": ("loss.epsilon=shuffle(1,2)", "loss.epsilon"),
    "choice": ("seed=choice(1,2)", "seed"),
    "range": ("seed=range(1,1000000000)", "seed"),
    "workers_negative": ("data.workers=-1", "data.workers"),
    "decoder_list": ("decoder=[a,b]", "decoder"),
    "resume_number": ("resume=5", "resume"),
    "resume_folder": ("resume=/", "resume=/"),
    "checkpoint_device": ("checkpoint=/dev/zero", "/dev/zero"),
    "checkpoint_null_byte": ("checkpoint='a\\0b'", "checkpoint"),
}


def configs() -> Iterator[Case]:
    for name, (content, said) in _FILES.items():

        def make(bench: Bench, content: str = content) -> Command:
            bench.replace(bench.inputs / "own" / "loss" / "mine.yaml", content)
            command = bench.train("loss=mine", f"--config-dir={bench.inputs / 'own'}")
            return _without(command, "loss=dot_mse")

        # Aliases may be refused or read as what they stand for; the second, never.
        ends = "either" if name in ("binary_tag",) else "refused"
        yield Case(f"config-{name}", "config", make, (said, "mine.yaml", "loss"), ends)
    for damage in DAMAGES:

        def make_damaged(bench: Bench, damage: str = damage) -> Command:
            file = bench.inputs / "own" / "loss" / "mine.yaml"
            bench.replace(file, "_target_: posematch.losses.DotMSE\nname: mine\n")
            DAMAGES[damage](file)
            command = bench.train("loss=mine", f"--config-dir={bench.inputs / 'own'}")
            return _without(command, "loss=dot_mse")

        says = ("mine", "loss")
        yield Case(f"config-{damage}", "config", make_damaged, says)
    for name, (override, said) in _OVERRIDES.items():

        def make_line(bench: Bench, override: str = override) -> Command:
            return bench.train(override)

        says = (said, "memory") if name == "size_huge" else (said,)
        yield Case(f"override-{name}", "config", make_line, says)


def _without(command: Command, argument: str) -> Command:
    kept = [one for one in command.arguments if one != argument]
    return Command(command.script, kept, command.named)
