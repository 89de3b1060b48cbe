"""The Python driver, as most programs use it: one blocking connection."""

import sys

from rethinkdb import RethinkDB
from rethinkdb import errors

import questions

r = RethinkDB()


def run_all(query, conn, **options):
    """The answer, with a cursor read to its end."""
    got = query.run(conn, **options)
    return list(got) if hasattr(got, "close") and hasattr(got, "next") else got


def fill(asked, conn, movies, quakes):
    asked.answer("db_create", r.db_create("cinema").run(conn)["dbs_created"], 1)
    asked.answer("db_list", "cinema" in r.db_list().run(conn), True)
    conn.use("cinema")
    for name in ("movies", "quakes", "scratch"):
        asked.answer("table_create", r.table_create(name).run(conn)["tables_created"], 1)
    asked.answer("table_list", r.table_list().run(conn), ["movies", "quakes", "scratch"])
    r.table("movies").wait().run(conn)
    for name, rows in (("movies", movies), ("quakes", quakes)):
        inserted = 0
        for start in range(0, len(rows), 200):
            inserted += r.table(name).insert(rows[start:start + 200]).run(conn)["inserted"]
        asked.answer("insert into " + name, inserted, len(rows))


def ask_reads(asked, conn, movies, quakes):
    for name, query, want, ordered in questions.reads(r, movies, quakes):
        try:
            got = run_all(query, conn)
        except errors.ReqlError as error:
            asked.failed(name, error)
            continue
        asked.answer(name, got, want, ordered)


def ask_cursors(asked, conn, movies):
    """Pages of a cursor, two of them read in turn, and one that is closed before its end."""
    first = r.table("movies").order_by(index="id").run(conn, max_batch_rows=50)
    second = r.table("movies").order_by(index=r.desc("id")).run(conn, max_batch_rows=70)
    ups, downs = [], []
    for _ in movies:
        ups.append(first.next()["id"])
        downs.append(second.next()["id"])
    asked.answer("a cursor in pages", ups, list(range(len(movies))))
    asked.answer("a second cursor beside it", downs, list(reversed(range(len(movies)))))
    try:
        first.next()
        asked.answer("a cursor ends", "a row", "the end")
    except errors.ReqlCursorEmpty:
        asked.answer("a cursor ends", "the end", "the end")
    abandoned = r.table("quakes").run(conn, max_batch_rows=10)
    abandoned.next()
    abandoned.close()
    asked.answer("after a closed cursor", r.expr(1).run(conn), 1)


def ask_profile(asked, conn):
    told = r.table("movies").get(1).run(conn, profile=True)
    asked.answer("a value beside its profile", told["value"]["id"], 1)
    asked.answer("tasks of a profile", [task["description"] for task in told["profile"]], ["Evaluating get.", "Perform read."])
    asked.answer("durations of tasks", all(task["duration(ms)"] > 0 for task in told["profile"]), True)
    told = r.table("movies").map(lambda movie: movie["id"]).run(conn, profile=True)
    asked.answer("a profile of the first batch", told["profile"][0]["description"], "Evaluating map.")
    told["value"].close()


def ask_writes(asked, conn, movies):
    t = r.table("scratch")

    def counts(name, got, **want):
        every = {"deleted": 0, "errors": 0, "inserted": 0, "replaced": 0, "skipped": 0, "unchanged": 0}
        asked.answer(name, {key: got[key] for key in every}, dict(every, **want))

    made = t.insert([{"n": number} for number in range(5)]).run(conn)
    counts("generated keys", made, inserted=5)
    asked.answer("generated keys are there", t.get_all(*made["generated_keys"]).count().run(conn), 5)
    t.delete().run(conn)
    counts("insert", t.insert(movies[:100], durability="soft").run(conn), inserted=100)
    asked.answer("sync", t.sync().run(conn)["synced"], 1)
    again = t.insert(movies[:2]).run(conn)
    counts("insert of what is there", again, errors=2)
    asked.answer("the error names the key", again["first_error"].startswith("Duplicate primary key `id`:"), True)
    counts("conflict update", t.insert({"id": 1, "new": 1}, conflict="update").run(conn), replaced=1)
    asked.answer("updated", t.get(1).run(conn), dict(movies[1], new=1))
    counts("conflict replace", t.insert({"id": 1, "new": 2}, conflict="replace").run(conn), replaced=1)
    asked.answer("replaced", t.get(1).run(conn), {"id": 1, "new": 2})
    merged = t.insert({"id": 1, "new": 5}, conflict=lambda key, old, new: old.merge({"new": old["new"] + new["new"]}))
    counts("conflict by function", merged.run(conn), replaced=1)
    asked.answer("merged", t.get(1)["new"].run(conn), 7)
    counts("update", t.filter({"Major Genre": "Drama"}).update({"sad": True}).run(conn),
           replaced=sum(movie["Major Genre"] == "Drama" for movie in movies[:100] if movie["id"] != 1))
    counts("update that changes nothing", t.get(2).update({"id": 2}).run(conn), unchanged=1)
    got = t.get(3).update({"n": 1}, return_changes=True).run(conn)
    asked.answer("changes of an update", got["changes"], [{"old_val": got["changes"][0]["old_val"], "new_val": dict(got["changes"][0]["old_val"], n=1)}])
    counts("update by function", t.get(3).update(lambda row: {"n": row["n"] + 41}).run(conn), replaced=1)
    asked.answer("updated by function", t.get(3)["n"].run(conn), 42)
    counts("update of nothing", t.get(-1).update({"n": 1}).run(conn), skipped=1)
    counts("replace", t.get(4).replace({"id": 4, "only": True}).run(conn), replaced=1)
    counts("replace of nothing makes", t.get(-4).replace({"id": -4}).run(conn), inserted=1)
    counts("replace by nothing deletes", t.get(-4).replace(None).run(conn), deleted=1)
    counts("replace without", t.get(4).replace(r.row.without("only")).run(conn), replaced=1)
    asked.answer("replaced without", t.get(4).run(conn), {"id": 4})
    got = t.get(4).delete(return_changes=True).run(conn)
    counts("delete", got, deleted=1)
    asked.answer("changes of a delete", got["changes"], [{"old_val": {"id": 4}, "new_val": None}])
    got = t.insert({"id": "x", "a": [1, {"b": None}]}, return_changes=True).run(conn)
    asked.answer("changes of an insert", got["changes"], [{"old_val": None, "new_val": {"id": "x", "a": [1, {"b": None}]}}])
    counts("delete of a range", t.between(10, 20).delete().run(conn), deleted=10)
    counts("delete of the rest", t.delete(durability="soft").run(conn), deleted=90)
    asked.answer("empty", t.count().run(conn), 0)
    for number in range(500):
        t.insert({"id": number}).run(conn, noreply=True)
    conn.noreply_wait()
    asked.answer("noreply", t.count().run(conn), 500)


def ask_errors(asked, conn):
    t = r.table("movies")
    rows = [
        ("a division by zero", r.expr(1) / 0, errors.ReqlQueryLogicError, "Cannot divide by zero."),
        ("a field that is missing", t.get(0)["nowhere"], errors.ReqlNonExistenceError, "No attribute `nowhere` in object"),
        ("a field of nothing", t.get(-1)["Title"], errors.ReqlNonExistenceError, "Cannot perform bracket on a non-object non-sequence `null`."),
        ("a table that is missing", r.table("nowhere"), errors.ReqlOpFailedError, "Table `cinema.nowhere` does not exist."),
        ("a database that is missing", r.db("nowhere").table("x"), errors.ReqlOpFailedError, "Database `nowhere` does not exist."),
        ("a table that is there", r.table_create("movies"), errors.ReqlOpFailedError, "Table `cinema.movies` already exists."),
        ("types that do not add", r.expr("a") + 1, errors.ReqlQueryLogicError, "Expected type STRING but found NUMBER."),
        ("an error of one's own", r.error("mine"), errors.ReqlUserError, "mine"),
        ("an nth beyond the end", r.expr([1]).nth(2), errors.ReqlNonExistenceError, "Index out of bounds: 2"),
        ("an array beyond its limit", r.range(200000).coerce_to("array"), errors.ReqlResourceLimitError, "Array over size limit `100000`."),
        ("a wrong option", t.insert({}, conflict="never"), errors.ReqlQueryLogicError, "Conflict option `never` unrecognized"),
    ]
    for name, query, kind, message in rows:
        try:
            got = run_all(query, conn)
        except errors.ReqlError as error:
            asked.answer(name, (type(error).__name__, str(error.message).startswith(message)), (kind.__name__, True))
            if not str(error.message).startswith(message):
                print("    the message is", error.message)
            continue
        asked.answer(name, got, "an error")
    asked.answer("after the errors", r.expr(1).run(conn), 1)


def main():
    host, port, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    movies, quakes = questions.load(folder)
    asked = questions.Asked()
    conn = r.connect(host=host, port=port, user="admin")
    asked.answer("server", sorted(conn.server()), ["id", "name", "proxy"])
    fill(asked, conn, movies, quakes)
    ask_reads(asked, conn, movies, quakes)
    ask_cursors(asked, conn, movies)
    ask_profile(asked, conn)
    ask_writes(asked, conn, movies)
    ask_errors(asked, conn)
    asked.answer("table_drop", r.table_drop("scratch").run(conn)["tables_dropped"], 1)
    asked.answer("db_drop", r.db_drop("cinema").run(conn)["tables_dropped"], 2)
    conn.close()
    return asked.end()


sys.exit(main())
