"""A DAG of Airflow: check a table, train two versions, compare them with the champion, promote the better one or stop.

Copy it to the folder of DAGs. Its tasks are the public commands; `python` is an interpreter that has Tabserve's
packages, and `folder` its clone.
"""

from __future__ import annotations

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Param

_MODEL = '"$PYTHON" -m model --store "$STORE"'
_TRAIN = f'{_MODEL} train "$MODEL" --data "$DATA" --target "$TARGET"'
_NOT_BETTER = [3, 4, 5]  # the exit statuses of `compare` that are an answer and no failure
_PROMOTE = f"""
for version in a b; do
  {_MODEL} promote "$MODEL@$version" --if-better --data "$HOLDOUT" || case $? in [345]) ;; *) exit 1 ;; esac
done
"""

with DAG(
    "tabserve_train",
    schedule=None,
    catchup=False,
    params={
        "model": Param("prices", type="string"),
        "data": Param(type="string", description="the table: a file or a URL"),
        "holdout": Param(type="string", description="a table with the target, of rows that are not in data"),
        "target": Param(type="string"),
        "learner_a": Param("linear", type="string"),
        "learner_b": Param("hist-gbm", type="string"),
        "store": Param("/models", type="string"),
        "python": Param("python", type="string"),
        "folder": Param("/srv/tabserve", type="string"),
    },
    render_template_as_native_obj=False,
    doc_md=__doc__,
) as dag:
    # As variables of the environment, so that no value of a parameter is read as a command.
    environment = {name.upper(): f"{{{{ params.{name} }}}}" for name in dag.params}

    def command(name: str, script: str, **arguments: object) -> BashOperator:
        """Return a task that runs a script in the clone, with the parameters in its environment."""
        script = f'cd "$FOLDER" && {{ {script.strip()}\n}}'
        return BashOperator(task_id=name, bash_command=script, env=environment, append_env=True, **arguments)

    check = command("check", f'{_MODEL} check "$DATA" --target "$TARGET"')
    train_a = command("train_a", f'{_TRAIN} --learner "$LEARNER_A" --tag a')
    train_b = command("train_b", f'{_TRAIN} --learner "$LEARNER_B" --tag b')
    compare = command(
        "compare", f'{_MODEL} compare "$MODEL" champion a b --data "$HOLDOUT"', skip_on_exit_code=_NOT_BETTER
    )
    promote = command("promote", _PROMOTE)

    check >> [train_a, train_b] >> compare >> promote
