"""Command lines: argparse, with the nearest option named when one is unknown."""

import argparse

from htc_fast.errors import UserError, choose


class Parser(argparse.ArgumentParser):
    """argparse, with the nearest option named when one is unknown."""

    def parse_args(self, args=None, namespace=None):
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            options = [name for action in self._actions for name in action.option_strings]
            try:
                if unknown[0].startswith("-"):
                    choose(unknown[0].split("=")[0], options, "option")
            except UserError as error:
                self.error(str(error))
            self.error(f"unexpected argument {unknown[0]!r}: see --help.")
        return parsed

    def error(self, message: str):
        """One sentence, without a page of usage before it."""
        self.exit(2, f"error: {message}\n")
