"""The command line tools of the Python package, unmodified: what is dumped and restored, or exported and imported, is the same."""

import csv
import json
import os
import subprocess
import sys
import tempfile

from rethinkdb import RethinkDB

import questions

r = RethinkDB()
HOST, PORT = sys.argv[1], sys.argv[2]
TOOL_SECONDS_MAX = 40


def tool(name, *arguments, typed=None):
    """Runs a tool to its end: whether it ended well, and what it printed."""
    command = [os.path.join(os.path.dirname(sys.executable), "rethinkdb-" + name), "-c", HOST + ":" + PORT]
    ended = subprocess.run(command + list(arguments), input=typed, text=True, timeout=TOOL_SECONDS_MAX,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return ended.returncode == 0, ended.stdout


def runs(asked, name, *arguments, says="Done ("):
    well, printed = tool(name, *arguments)
    asked.answer("%s %s" % (name, " ".join(arguments)), True if well and says in printed else printed[-600:], True)


def fill(conn, movies, quakes):
    r.db_create("cinema").run(conn)
    conn.use("cinema")
    r.table_create("movies").run(conn)
    r.table_create("quakes", primary_key="code").run(conn)
    r.table_create("empty").run(conn)
    movies_table, quakes_table = r.table("movies"), r.table("quakes")
    movies_table.index_create("Director").run(conn)
    movies_table.index_create("genre and year", [r.row["Major Genre"], r.row["Release Date"].split(" ")[-1]]).run(conn)
    movies_table.index_create("words", lambda movie: movie["Title"].coerce_to("string").split(" "), multi=True).run(conn)
    movies_table.index_create("gain", r.row["Worldwide Gross"] - r.row["Production Budget"]).run(conn)
    quakes_table.index_create("place", geo=True).run(conn)
    quakes_table.index_create("places", lambda quake: [quake["place"]], geo=True, multi=True).run(conn)
    movies_table.index_wait().run(conn)
    quakes_table.index_wait().run(conn)
    movies_table.set_write_hook(lambda context, old, new: r.branch(new.eq(None), None, new.merge({"hooked": True}))).run(conn)
    for start in range(0, len(movies), 500):
        movies_table.insert(movies[start:start + 500], durability="soft").run(conn)
    rows = [{"code": quake["id"], "place": r.point(*quake["geometry"]["coordinates"][:2]), "at": r.epoch_time(quake["properties"]["time"] / 1000),
             "raw": r.binary(quake["id"].encode() + b"\x00\xff"), "rest": quake["properties"], "deep": [[], {}, [None, {"a": -0.1}]]} for quake in quakes]
    for start in range(0, len(rows), 300):
        quakes_table.insert(rows[start:start + 300], durability="soft").run(conn)


def state(conn):
    """All that a dump has to keep: rows, keys, indexes with what they find, write hooks."""
    raw = {"time_format": "raw", "binary_format": "raw"}
    found = {}
    for name in r.table_list().run(conn):
        table = r.table(name)
        key = table.info()["primary_key"].run(conn)
        table.index_wait().run(conn)
        hook = table.get_write_hook().run(conn)
        indexes = {}
        for status in table.index_status().run(conn):
            status = {field: status[field] for field in ("index", "geo", "multi", "outdated", "query", "ready")}
            if status["geo"]:
                world = r.polygon([-170, -80], [0, -80], [170, -80], [170, 80], [0, 80], [-170, 80])
                rows = table.get_intersecting(world, index=status["index"])[key].coerce_to("array").run(conn)
            else:
                rows = list(table.order_by(index=status["index"])[key].run(conn))
                status["ordered"] = rows[:1] + rows[-1:] if not status["multi"] else None
            indexes[status["index"]] = dict(status, rows=sorted(rows))
        found[name] = {
            "key": key, "indexes": indexes, "hook": hook and hook["query"], "rows": list(table.order_by(index=key).run(conn, **raw)),
        }
    return found


def compare(asked, name, got, want):
    asked.answer(name + ": tables", sorted(got), sorted(want))
    for table in want:
        for part in want[table]:
            asked.answer("%s: %s of %s" % (name, part, table), got.get(table, {}).get(part), want[table][part])


def ask_dump(asked, conn, folder, before):
    archive = os.path.join(folder, "dump.tar.gz")
    runs(asked, "dump", "-f", archive)
    r.db_drop("cinema").run(conn)
    runs(asked, "restore", archive)
    compare(asked, "restored", state(conn), before)
    well, printed = tool("restore", archive)
    asked.answer("restore over tables that are there", (well, "already exist" in printed), (False, True))
    r.table("movies").delete().run(conn)
    runs(asked, "restore", archive, "--force", "-i", "cinema.movies", "--hard-durability")
    compare(asked, "restored by force", state(conn), before)
    runs(asked, "index-rebuild", "--force", "-n", "3")
    compare(asked, "rebuilt", state(conn), before)
    runs(asked, "index-rebuild", "-r", "cinema.movies")


def ask_export(asked, conn, folder, movies, before):
    whole = os.path.join(folder, "whole")
    runs(asked, "export", "-d", whole, "--clients", "2")
    asked.answer("files of an export", sorted(os.listdir(os.path.join(whole, "cinema"))),
                 [name + end for name in ("empty", "movies", "quakes") for end in (".info", ".json")])
    r.db_drop("cinema").run(conn)
    runs(asked, "import", "-d", whole)
    compare(asked, "imported", state(conn), before)
    parts = os.path.join(folder, "parts")
    runs(asked, "export", "-d", parts, "-e", "cinema.movies", "--format", "csv", "--fields", "id,Title,Director")
    with open(os.path.join(parts, "cinema", "movies.csv"), encoding="utf-8", newline="") as file:
        rows = [[int(row["id"]), row["Title"], row["Director"]] for row in csv.DictReader(file)]
    text = lambda value: "null" if value is None else str(value)
    asked.answer("csv", sorted(rows), [[movie["id"], text(movie["Title"]), text(movie["Director"])] for movie in movies])
    runs(asked, "import", "-f", os.path.join(parts, "cinema", "movies.csv"), "--format", "csv", "--table", "other.movies", "--no-secondary-indexes")
    got = r.db("other").table("movies").order_by(r.row["id"].coerce_to("number"))["Title"].run(conn)
    asked.answer("imported csv", got, [text(movie["Title"]) for movie in movies])
    lines = os.path.join(folder, "lines")
    runs(asked, "export", "-d", lines, "-e", "cinema.quakes", "--format", "ndjson")
    with open(os.path.join(lines, "cinema", "quakes.ndjson"), encoding="utf-8") as file:
        asked.answer("lines", sorted(json.loads(line)["code"] for line in file), sorted(row["code"] for row in before["quakes"]["rows"]))


def ask_import(asked, conn, folder, movies):
    """Files that no tool of ours wrote: an array, lines, comma separated values without a header."""
    few = movies[:300]
    files = {"array.json": json.dumps(few), "lines.json": "\n".join(map(json.dumps, few))}
    for name, text in files.items():
        path = os.path.join(folder, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        key = ["--pkey", "id"] if name == "lines.json" else []
        runs(asked, "import", "-f", path, "--table", "made." + name.split(".")[0], "--clients", "2", *key, says="300 rows imported to 1 table")
        asked.answer("imported " + name, list(r.db("made").table(name.split(".")[0]).order_by(index="id").run(conn)), few)
    path = os.path.join(folder, "bare.csv")
    with open(path, "w", encoding="utf-8") as file:
        file.writelines("%d,%s\n" % (movie["id"], movie["Director"]) for movie in few)
    runs(asked, "import", "-f", path, "--format", "csv", "--table", "made.bare", "--no-header", "--custom-header", "id,by")
    asked.answer("imported csv without a header", r.db("made").table("bare").get("7")["by"].run(conn), str(few[7]["Director"]))
    well, printed = tool("import", "-f", os.path.join(folder, "array.json"), "--table", "made.array")
    asked.answer("import into a table that is there", (well, "already exists" in printed or "--force" in printed), (False, True))


def ask_repl(asked, folder):
    well, printed = tool("repl", typed="r.expr(20).add(1).mul(2).run()\nr.db('made').table('array').count().run(conn)\n")
    asked.answer("repl", (well, "42" in printed, "300" in printed), (True, True, True))


def ask_password(asked, conn, folder):
    """The tools log in with a password, and say so when it is wrong."""
    r.db("rethinkdb").table("users").get("admin").update({"password": "secret"}).run(conn)
    for password, right in (("secret", True), ("guess", False)):
        path = os.path.join(folder, "password")
        with open(path, "w", encoding="utf-8") as file:
            file.write(password)
        well, printed = tool("export", "-d", os.path.join(folder, "with " + password), "-e", "made.array", "--password-file", path)
        asked.answer("export with the password " + password, well, right)
    asked.answer("the refusal is told", "Wrong password" in printed, True)


def main():
    movies, quakes = questions.load(sys.argv[3])
    asked = questions.Asked()
    conn = r.connect(host=HOST, port=int(PORT))
    with tempfile.TemporaryDirectory() as folder:
        fill(conn, movies, quakes)
        before = state(conn)
        ask_dump(asked, conn, folder, before)
        ask_export(asked, conn, folder, movies, before)
        ask_import(asked, conn, folder, movies)
        ask_repl(asked, folder)
        ask_password(asked, conn, folder)
    return asked.end()


sys.exit(main())
