-- Optuna's study in a database of its own: --study postgresql+psycopg://…/optuna
CREATE DATABASE optuna;
