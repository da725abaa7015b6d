"""``python -m pipeline`` is the ``seize`` command."""

import sys
import warnings

from pipeline.errors import KEPT, STOPPED, InstallationError


def main() -> None:
    """Run the command line; without the packages it needs, say what to install."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # libraries' remarks, which a user cannot act on
    try:
        from pipeline.cli import main as command_line
    except KeyboardInterrupt:
        sys.stderr.write(f"{KEPT}\n")
        sys.exit(STOPPED)
    except ImportError as error:
        if (error.name or "").startswith("pipeline"):
            raise
        from pipeline.doctor import checks as doctor

        if "doctor" in sys.argv[1:]:
            sys.exit(doctor.installation_only())
        broken = InstallationError.of(error)
        sys.stderr.write(f"Error: {broken}\n")
        sys.exit(broken.exit_code)
    command_line()


if __name__ == "__main__":
    main()
