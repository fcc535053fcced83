import mlflow.sklearn
from mlflow.models import infer_signature

signature = infer_signature(X, pipeline.predict(X))
mlflow.sklearn.save_model(pipeline, "flights", signature=signature, serialization_format="cloudpickle")
