// What both JavaScript drivers do with changefeeds. `run(query)` gives a value, `open(query)` a cursor.

'use strict'

const { answer, ask, fails } = require('./questions')

const FEEDS = 200

/** The next elements of a feed. */
async function take (feed, count) {
  const elements = []
  while (elements.length < count) elements.push(await feed.next())
  return elements
}

async function askFeeds (r, run, open) {
  await run(r.dbCreate('feeds'))
  const db = r.db('feeds')
  await run(db.tableCreate('rows'))
  const rows = db.table('rows')
  await run(rows.insert([0, 1, 2, 3, 4].map(id => ({ id, n: id % 2 }))))

  const table = await open(rows.changes({ includeInitial: true, includeStates: true }))
  const told = await take(table, 7)
  answer('states of a feed', [told[0], told[6]], [{ state: 'initializing' }, { state: 'ready' }])
  const initial = [0, 1, 2, 3, 4].map(id => ({ new_val: { id, n: id % 2 } }))
  answer('initial values of a feed', told.slice(1, 6), initial, 'unordered')
  const point = await open(rows.get(1).changes({ includeInitial: true }))
  answer('initial value of a point', await take(point, 1), [{ new_val: { id: 1, n: 1 } }])
  const odd = await open(rows.filter({ n: 1 }).changes({ includeTypes: true }))
  const last = await open(rows.orderBy({ index: r.desc('id') }).limit(1).changes({ includeInitial: true }))
  answer('initial value of a limit', await take(last, 1), [{ new_val: { id: 4, n: 0 } }])

  await run(rows.get(1).update({ n: 2 }))
  const change = { old_val: { id: 1, n: 1 }, new_val: { id: 1, n: 2 } }
  answer('change in a table', await take(table, 1), [change])
  answer('change of a point', await take(point, 1), [change])
  answer('change out of a filter', await take(odd, 1), [{ type: 'remove', old_val: { id: 1, n: 1 }, new_val: null }])
  await run(rows.insert({ id: 9, n: 1 }))
  answer('change into a filter', await take(odd, 1), [{ type: 'add', old_val: null, new_val: { id: 9, n: 1 } }])
  answer('change of a limit', await take(last, 1), [{ old_val: { id: 4, n: 0 }, new_val: { id: 9, n: 1 } }])

  const feeds = await Promise.all(Array.from({ length: FEEDS }, () => open(rows.filter(r.row('id').ge(10)).changes())))
  const every = Promise.all(feeds.map(feed => take(feed, 2)))
  await run(rows.insert({ id: 10 }))
  await run(rows.get(10).delete())
  const both = [{ old_val: null, new_val: { id: 10 } }, { old_val: { id: 10 }, new_val: null }]
  answer('feeds side by side', await every, feeds.map(() => both))
  await Promise.all(feeds.map(feed => feed.close()))
  await point.close()
  await ask('after closed feeds', run(rows.count()), 6)

  const end = take(odd, 1)
  await Promise.all([
    fails('the end of a feed of a dropped table', end, 'ReqlOpFailedError', 'Changefeed aborted (unavailable).'),
    run(db.tableDrop('rows'))
  ])
  await run(r.dbDrop('feeds'))
}

module.exports = { askFeeds }
