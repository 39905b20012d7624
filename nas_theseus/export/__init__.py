"""Found networks as files: folders that rebuild them, other tools' formats."""
