"""Known vulnerabilities of what is installed: ``make audit``.

Runs pip-audit and fails for whatever it finds that is not accepted, with a reason, in
``.ci/accepted-vulnerabilities.txt``. Where its data cannot be reached, that is said and nothing
fails: pip-audit itself calls a package without data fine. Where pip-audit itself fails, this fails.
"""

import json
import re
import subprocess
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from pipeline.installation import PROJECT

ACCEPTED = PROJECT / ".ci" / "accepted-vulnerabilities.txt"
TIMEOUT = 15
"""Seconds that pip-audit waits for an answer about one package."""
UNREACHABLE = re.compile(
    r"^requests\.exceptions\.(ConnectionError|ProxyError|SSLError|\w*Timeout)"
    r"|^requests\.exceptions\.HTTPError: (403|407|429|5)"
    r"|Could not connect to PyPI|PyPI is not redirecting",
    re.MULTILINE,
)
"""What pip-audit 2 ends with where its data cannot be reached: mostly the traceback of requests."""


@dataclass
class Audit:
    """What is known about the packages that were looked at."""

    audited: int = 0
    skipped: list[str] = field(default_factory=list)
    """Packages without data."""
    accepted: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    """Vulnerabilities that are not accepted, in words."""
    unused: list[str] = field(default_factory=list)
    """Accepted ones that nothing has any more."""

    def render(self) -> str:
        """Return what is to be said, one fact a line."""
        lines = [f"VULNERABLE: {each}" for each in self.found]
        lines += [f"Accepted: {each}" for each in self.accepted]
        if self.audited:
            lines.append(f"Audited {self.audited} packages: {len(self.found)} vulnerabilities.")
            lines += [f"No longer needed in {ACCEPTED.name}: {each}" for each in self.unused]
            if self.skipped:
                lines.append(f"Without data: {', '.join(self.skipped)}")
        else:
            lines.append(
                "NOT AUDITED: the audit data cannot be reached from here. This is no sign that "
                "nothing is wrong."
            )
        return "\n".join(lines)


def read_accepted(text: str) -> dict[str, str]:
    """Return the reasons by vulnerability; raises ClickException for one without a reason."""
    found = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, reason = line.partition(":")
            if not reason.strip():
                raise click.ClickException(f"{ACCEPTED}: {name.strip()} is accepted for no reason.")
            found[name.strip()] = reason.strip()
    return found


def judge(report: dict[str, Any], accepted: dict[str, str]) -> Audit:
    """Return what pip-audit's JSON says, less what is accepted."""
    audit, used = Audit(), set()
    for package in report["dependencies"]:
        if "vulns" not in package:
            audit.skipped.append(package["name"])
            continue
        audit.audited += 1
        for flaw in package["vulns"]:
            names = {flaw["id"], *flaw.get("aliases", ())}
            what = f"{package['name']} {package['version']}: {flaw['id']}"
            if matching := names & accepted.keys():
                used |= matching
                audit.accepted.append(f"{what} ({accepted[sorted(matching)[0]]})")
            else:
                mended = ", ".join(flaw.get("fix_versions", ())) or "no version"
                audit.found.append(f"{what}, mended in {mended}")
    audit.unused = sorted(accepted.keys() - used)
    return audit


def run(program: str, packages: Path) -> dict[str, Any]:
    """Return pip-audit's report on a folder of installed packages; empty without its data.

    Raises ClickException where pip-audit cannot be started, fails, looked at nothing, or says what
    is no report.
    """
    command = [program, "--path", str(packages), "--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(
            [*command, "--timeout", str(TIMEOUT)], capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise click.ClickException(f"pip-audit cannot be started: {error}") from None
    said = " ".join(done.stderr.split())[-500:]
    if done.returncode and not done.stdout.strip() and UNREACHABLE.search(done.stderr):
        click.echo(said, err=True)
        return {"dependencies": []}
    packages_found = packages_of(done.stdout)
    vulnerable = any(each.get("vulns") for each in packages_found or [])
    if packages_found is None or done.returncode != vulnerable:
        raise click.ClickException(f"pip-audit itself failed (exit code {done.returncode}): {said}")
    if not packages_found:
        raise click.ClickException(f"pip-audit found no package in {packages}.")
    # The project itself is installed but not published.
    return {"dependencies": [each for each in packages_found if each["name"] != "seize"]}


def packages_of(text: str) -> list[dict[str, Any]] | None:
    """Return the packages of pip-audit's JSON; None where it is no such report."""
    try:
        packages: list[dict[str, Any]] = json.loads(text)["dependencies"]
        for package in packages:
            wanted = {"name", "skip_reason" if "skip_reason" in package else "vulns"}
            if not wanted <= package.keys():
                return None
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return packages


@click.command()
@click.argument("program")
@click.option("--packages", type=Path, default=Path(sysconfig.get_path("purelib")))
def main(program: str, packages: Path) -> None:
    """Audit what is installed with PROGRAM, which is pip-audit."""
    audit = judge(run(program, packages), read_accepted(ACCEPTED.read_text(encoding="utf-8")))
    click.echo(audit.render())
    raise SystemExit(1 if audit.found else 0)


if __name__ == "__main__":
    main()
