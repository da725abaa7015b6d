"""``python -m seize`` is the ``seize`` command, as is ``python -m pipeline``."""

from pipeline.__main__ import main

if __name__ == "__main__":
    main()
