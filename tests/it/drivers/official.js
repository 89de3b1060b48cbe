// The JavaScript driver of RethinkDB's makers, unmodified.

'use strict'

const r = require('rethinkdb')
const { askFeeds } = require('./feeds')
const { answer, ask, askAll } = require('./questions')

async function main ([host, port, folder]) {
  const conn = await r.connect({ host, port: Number(port), user: 'admin', password: '' })
  const run = async (query, options) => {
    const got = await query.run(conn, options)
    return got !== null && typeof got.toArray === 'function' ? got.toArray() : got
  }
  const end = await askAll(r, run, folder)

  const cursor = await r.db('cinema').table('movies').orderBy({ index: 'id' }).run(conn, { maxBatchRows: 40 })
  const ids = []
  await cursor.eachAsync(movie => { ids.push(movie.id) })
  answer('a cursor in pages', ids, [...ids.keys()])
  const closed = await r.db('cinema').table('quakes').run(conn, { maxBatchRows: 5 })
  await closed.next()
  await closed.close()
  await ask('after a closed cursor', run(r.expr(1)), 1)

  await r.db('cinema').tableCreate('fast').run(conn)
  for (let id = 0; id < 300; id++) r.db('cinema').table('fast').insert({ id }).run(conn, { noreply: true })
  await conn.noreplyWait()
  await ask('noreply', run(r.db('cinema').table('fast').count()), 300)
  await ask('dbDrop', run(r.dbDrop('cinema')('tables_dropped')), 3)
  await askFeeds(r, run, query => query.run(conn))
  await conn.close()
  return end()
}

main(process.argv.slice(2)).then(code => process.exit(code), error => {
  console.error(error)
  process.exit(1)
})
