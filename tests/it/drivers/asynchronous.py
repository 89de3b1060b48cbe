"""The Python driver under asyncio: several connections, and many queries in flight on each."""

import asyncio
import sys

from rethinkdb import RethinkDB
from rethinkdb import errors

import questions

r = RethinkDB()
r.set_loop_type("asyncio")


async def run_all(query, conn):
    """The answer, with a cursor read to its end."""
    got = await query.run(conn)
    if not hasattr(got, "fetch_next"):
        return got
    rows = []
    while await got.fetch_next():
        rows.append(await got.next())
    return rows


async def fill(asked, conns, movies, quakes):
    asked.answer("db_create", (await r.db_create("cinema").run(conns[0]))["dbs_created"], 1)
    made = await asyncio.gather(*(r.db("cinema").table_create(name).run(conn) for name, conn in zip(("movies", "quakes"), conns)))
    asked.answer("table_create at once", [answer["tables_created"] for answer in made], [1, 1])
    for name, rows in (("movies", movies), ("quakes", quakes)):
        batches = [rows[start:start + 100] for start in range(0, len(rows), 100)]
        inserts = (r.db("cinema").table(name).insert(batch).run(conns[i % len(conns)]) for i, batch in enumerate(batches))
        answers = await asyncio.gather(*inserts)
        asked.answer("insert into " + name, sum(answer["inserted"] for answer in answers), len(rows))


async def ask_read(asked, conn, row):
    name, query, want, ordered = row
    try:
        got = await run_all(query, conn)
    except errors.ReqlError as error:
        asked.failed(name, error)
        return
    asked.answer(name, got, want, ordered)


async def ask_in_flight(asked, conn, movies):
    """A thousand tokens on one connection, answered in any order."""
    t = r.db("cinema").table("movies")
    got = await asyncio.gather(*(t.get(number).run(conn) for number in range(1000)))
    asked.answer("a thousand gets in flight", got, movies[:1000])
    got = await asyncio.gather(*((r.expr(1) / (number % 2)).run(conn) for number in range(100)), return_exceptions=True)
    kinds = [type(answer).__name__ if isinstance(answer, Exception) else answer for answer in got]
    asked.answer("errors among values", kinds, ["ReqlQueryLogicError", 1] * 50)


async def ask_many_writers(asked, conns):
    """Increments from several connections, none lost."""
    t = r.db("cinema").table("movies")
    await t.insert({"id": "counter", "n": 0}).run(conns[0])
    add = lambda conn: t.get("counter").update(lambda row: {"n": row["n"] + 1}).run(conn)
    await asyncio.gather(*(add(conns[number % len(conns)]) for number in range(400)))
    asked.answer("four hundred increments", await t.get("counter")["n"].run(conns[0]), 400)


async def main():
    host, port, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    movies, quakes = questions.load(folder)
    asked = questions.Asked()
    conns = [await r.connect(host=host, port=port) for _ in range(8)]
    await fill(asked, conns, movies, quakes)
    rows = list(questions.reads(r, movies, quakes))
    await asyncio.gather(*(ask_read(asked, conns[number % len(conns)], row) for number, row in enumerate(rows)))
    await ask_in_flight(asked, conns[0], movies)
    await ask_many_writers(asked, conns)
    for conn in conns:
        await conn.close()
    return asked.end()


sys.exit(asyncio.run(main()))
