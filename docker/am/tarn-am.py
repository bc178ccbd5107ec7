#!/opt/tarn/bin/python -I
"""`tarn-am` of the image. Isolated (-I), so that nothing of the image or of the working directory is taken for one of its packages."""

from tarn_am.__main__ import main

if __name__ == "__main__":
    main()
