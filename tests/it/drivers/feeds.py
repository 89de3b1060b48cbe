"""Changefeeds through the Python driver: asyncio with a thousand on one connection, and the blocking cursor."""

import asyncio
import sys
import threading

from rethinkdb import RethinkDB
from rethinkdb import errors

import questions

HOST, PORT = sys.argv[1], int(sys.argv[2])
FEEDS = 1000
SILENCE_SECONDS_MAX = 20

plain = RethinkDB()
r = RethinkDB()
r.set_loop_type("asyncio")


async def take(feed, count):
    """The next elements of a feed."""
    return [await asyncio.wait_for(feed.next(), SILENCE_SECONDS_MAX) for _ in range(count)]


async def error_of(feed):
    try:
        return await asyncio.wait_for(feed.next(), SILENCE_SECONDS_MAX)
    except errors.ReqlError as error:
        return "%s: %s" % (type(error).__name__, error.message)


async def ask_kinds(asked, conn, writer):
    """What each kind of feed tells first, and of a change."""
    t = r.table("rows")
    await t.insert([{"id": number, "n": number % 3} for number in range(10)]).run(writer)
    row = lambda number: {"id": number, "n": number % 3}
    by_id = lambda rows: sorted(rows, key=lambda element: element["new_val"]["id"])

    table = await t.changes(include_initial=True, include_states=True).run(conn)
    got = await take(table, 12)
    asked.answer("states", [got[0], got[-1]], [{"state": "initializing"}, {"state": "ready"}])
    asked.answer("initial values", by_id(got[1:-1]), [{"new_val": row(number)} for number in range(10)])
    point = await t.get(3).changes(include_initial=True).run(conn)
    asked.answer("initial value of a point", await take(point, 1), [{"new_val": row(3)}])
    filtered = await t.filter({"n": 1}).pluck("id").changes(include_types=True).run(conn)
    first = await t.order_by(index=r.desc("id")).limit(2).changes(include_initial=True, include_offsets=True).run(conn)
    asked.answer("initial values of a limit", sorted(element["new_val"]["id"] for element in await take(first, 2)), [8, 9])

    await t.get(3).update({"n": 1}).run(writer)
    change = {"old_val": row(3), "new_val": {"id": 3, "n": 1}}
    asked.answer("change in a table", await take(table, 1), [change])
    asked.answer("change of a point", await take(point, 1), [change])
    asked.answer("change into a filter", await take(filtered, 1), [{"type": "add", "old_val": None, "new_val": {"id": 3}}])
    await t.insert({"id": 100, "n": 5}).run(writer)
    asked.answer("change of a limit", await take(first, 1),
                 [{"old_offset": 1, "new_offset": 0, "old_val": row(8), "new_val": {"id": 100, "n": 5}}])
    await t.get(3).delete().run(writer)
    asked.answer("delete of a point", await take(point, 1), [{"old_val": {"id": 3, "n": 1}, "new_val": None}])
    asked.answer("change out of a filter", await take(filtered, 1), [{"type": "remove", "old_val": {"id": 3}, "new_val": None}])

    await point.close()
    asked.answer("the connection lives on after a closed feed", await r.expr(1).run(conn), 1)
    await r.table_drop("rows").run(writer)
    asked.answer("the table dropped", await error_of(filtered),
                 "ReqlOpFailedError: Changefeed aborted (unavailable).")


async def ask_thousand(asked, conn, writer):
    """A thousand feeds on one connection: each sees its own rows and the row that all wait for."""
    await r.table_create("many").run(writer)
    t = r.table("many")
    feeds = await asyncio.gather(*(t.filter((r.row["id"] == number) | (r.row["id"] == "all")).changes().run(conn) for number in range(FEEDS - 500)))
    feeds += await asyncio.gather(*(t.changes().run(conn) for _ in range(500)))
    every = asyncio.gather(*(take(feed, 1) for feed in feeds))
    await t.insert({"id": "all"}).run(writer)
    asked.answer("one change for all", await every, [[{"old_val": None, "new_val": {"id": "all"}}]] * FEEDS)
    own = asyncio.gather(*(take(feed, 1) for feed in feeds[:FEEDS - 500]))
    await t.insert([{"id": number} for number in range(FEEDS - 500)]).run(writer)
    asked.answer("one change for each", [got[0]["new_val"]["id"] for got in await own], list(range(FEEDS - 500)))
    asked.answer("a query beside a thousand feeds", await t.count().run(conn), FEEDS - 500 + 1)
    await asyncio.gather(*(feed.close() for feed in feeds))
    asked.answer("a query after a thousand feeds", await r.expr(1).run(conn), 1)


async def ask_close(asked, writer):
    """A connection that closes takes its feeds with it."""
    conn = await r.connect(host=HOST, port=PORT, db="feeds")
    feed = await r.table("many").changes().run(conn)
    waiting = asyncio.ensure_future(error_of(feed))
    await asyncio.sleep(0.1)
    await conn.close(noreply_wait=False)
    asked.answer("a feed of a closed connection", await waiting, "ReqlRuntimeError: Connection is closed.")
    asked.answer("others live on", await r.expr(2).run(writer), 2)


async def ask_asynchronous(asked):
    writer = await r.connect(host=HOST, port=PORT)
    await r.db_create("feeds").run(writer)
    writer.use("feeds")
    await r.table_create("rows").run(writer)
    conn = await r.connect(host=HOST, port=PORT, db="feeds")
    await ask_kinds(asked, conn, writer)
    await ask_thousand(asked, conn, writer)
    await ask_close(asked, writer)
    await conn.close()
    await writer.close()


def ask_blocking(asked):
    """The cursor that most programs iterate over, while another connection writes."""
    conn, writer = (plain.connect(host=HOST, port=PORT, db="feeds") for _ in range(2))
    plain.table_create("plain").run(conn)
    t = plain.table("plain")
    feed = t.changes(squash=False).run(conn)
    thread = threading.Thread(target=lambda: [t.insert({"id": number}).run(writer) for number in range(50)])
    thread.start()
    got = [feed.next(wait=SILENCE_SECONDS_MAX)["new_val"]["id"] for _ in range(50)]
    thread.join()
    asked.answer("changes in the order of the writes", got, list(range(50)))
    try:
        asked.answer("nothing more", feed.next(wait=False), "a timeout")
    except errors.ReqlTimeoutError:
        asked.answer("nothing more", "a timeout", "a timeout")
    feed.close()
    first = t.order_by(index="id").limit(3).changes(include_initial=True).run(conn)
    asked.answer("initial values of the first rows", sorted(first.next()["new_val"]["id"] for _ in range(3)), [0, 1, 2])
    conn.close()
    writer.close()


def main():
    asked = questions.Asked()
    asyncio.run(ask_asynchronous(asked))
    ask_blocking(asked)
    return asked.end()


sys.exit(main())
