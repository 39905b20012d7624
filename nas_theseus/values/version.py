"""The version of nas-theseus, as saved blocks and MLflow runs name it."""

VERSION = "0.1.0"
