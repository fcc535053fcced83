import joblib

joblib.dump(pipeline, "flights.joblib")
