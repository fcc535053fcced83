import joblib
import litserve
import pandas as pd


class Flights(litserve.LitAPI):
    def setup(self, device):
        self.pipeline = joblib.load("flights.joblib")

    def decode_request(self, request):
        return pd.DataFrame(request["rows"])

    def predict(self, X):
        return self.pipeline.predict(X)

    def encode_response(self, output):
        return {"prediction": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Flights(), accelerator="cpu")
    server.run(host="127.0.0.1", port=8000, generate_client_file=False)
