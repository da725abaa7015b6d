"""``python -m pipeline`` is the ``seize`` command."""

import sys


def main() -> None:
    """Run the command line; without the packages it needs, say what to install."""
    try:
        from pipeline.cli import main as command_line
    except ImportError as error:
        from pipeline import doctor
        from pipeline.errors import InstallationError

        if "doctor" in sys.argv[1:]:
            sys.exit(doctor.installation_only())
        broken = InstallationError.of(error)
        print(f"Error: {broken}", file=sys.stderr)
        sys.exit(broken.exit_code)
    command_line()


if __name__ == "__main__":
    main()
