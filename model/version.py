"""The version of Tabserve, which protocols report as the server's, images have as a label, and runs as their code's."""

VERSION = "0.1.0"
