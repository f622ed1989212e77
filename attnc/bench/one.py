"""`python -m attnc.bench.one SUITE ROW SETTINGS`: one row measured in this process, printed as JSON."""

from __future__ import annotations

import json
import sys

from attnc.bench.suite import run, select, specs
from attnc.bench.timing import Settings

if __name__ == "__main__":
    suite, name, given = sys.argv[1:]
    settings = Settings(**{**json.loads(given), "peers": tuple(json.loads(given)["peers"])})
    (row,) = run([x for x in select(specs(suite, settings.quick), [name]) if x.name == name], settings)
    print(json.dumps(row.to_json()))
