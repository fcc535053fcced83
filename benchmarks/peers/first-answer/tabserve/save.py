from model import export

export(pipeline, X, y, name="flights")
