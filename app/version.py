"""The version of Tabserve, which protocols report as the server's and images have as a label."""

VERSION = "0.1.0"
