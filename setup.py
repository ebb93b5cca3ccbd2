"""The wheel carries conf/, which stays at the top level, as posematch/conf."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CONF = Path(__file__).parent / "conf"


class WithConf(build_py):
    """`build_py` that copies conf/ beside the package's modules.

    Not in an editable install, which finds the folder at the top of the checkout.
    """

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for file in sorted(CONF.rglob("*.yaml")):
            target = Path(self.build_lib, "posematch", "conf", file.relative_to(CONF))
            self.mkpath(str(target.parent))
            self.copy_file(str(file), str(target))


setup(cmdclass={"build_py": WithConf})
