"""The version of Tabserve itself: what protocols report as the server's, and images are labelled with."""

VERSION = "0.1.0"
