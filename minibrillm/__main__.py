"""``python -m minibrillm``."""

from minibrillm.cli import main

if __name__ == "__main__":
    main()
