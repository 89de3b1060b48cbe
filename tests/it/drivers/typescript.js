// The driver rethinkdb-ts with its connection pool, unmodified.

'use strict'

const { r } = require('rethinkdb-ts')
const { askFeeds } = require('./feeds')
const { answer, ask, askAll } = require('./questions')

async function main ([host, port, folder]) {
  const pool = await r.connectPool({ servers: [{ host, port: Number(port) }], max: 8, buffer: 2, user: 'admin', silent: true })
  const run = (query, options) => query.run(options)
  const names = {
    QUERY_LOGIC: 'ReqlQueryLogicError',
    NON_EXISTENCE: 'ReqlNonExistenceError',
    OP_FAILED: 'ReqlOpFailedError',
    USER: 'ReqlUserError'
  }
  const { RethinkDBErrorType } = require('rethinkdb-ts')
  const kindOf = error => names[RethinkDBErrorType[error.type]] || String(error.type)
  const end = await askAll(r, run, folder, kindOf)

  const cursor = await r.db('cinema').table('movies').orderBy({ index: 'id' }).getCursor({ maxBatchRows: 40 })
  const ids = []
  for await (const movie of cursor) ids.push(movie.id)
  answer('a cursor in pages', ids, [...ids.keys()])
  await ask('dbDrop', run(r.dbDrop('cinema')('tables_dropped')), 2)
  // `getCursor` gives a cursor before the server has answered: a write on another connection could come before its feed.
  const open = async query => {
    const cursor = await query.getCursor()
    await cursor.resolving
    return cursor
  }
  await askFeeds(r, run, open)
  await pool.drain()
  return end()
}

main(process.argv.slice(2)).then(code => process.exit(code), error => {
  console.error(error)
  process.exit(1)
})
