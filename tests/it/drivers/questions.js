// What both JavaScript drivers do: load movies.json and earthquakes.json, ask, write, fail. Every answer is computed in
// plain JavaScript from the file. `run(query, options)` gives a value, or an array where the driver gives a cursor.

'use strict'

const { deepStrictEqual } = require('assert')
const { readFileSync } = require('fs')
const { join } = require('path')

let right = 0
let wrong = 0

/** Floating point sums are equal up to their order of addition. */
function rounded (value) {
  if (typeof value === 'number' && !Number.isInteger(value)) return Number(value.toPrecision(9))
  if (Array.isArray(value)) return value.map(rounded)
  if (value !== null && typeof value === 'object') {
    return Object.fromEntries(Object.keys(value).sort().map(key => [key, rounded(value[key])]))
  }
  return value
}

function sorted (rows) {
  const keyed = rows.map(row => [JSON.stringify(row), row])
  return keyed.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)).map(([, row]) => row)
}

function answer (name, got, want, order = 'ordered') {
  try {
    got = rounded(got)
    want = rounded(want)
    if (order === 'unordered') [got, want] = [sorted(got), sorted(want)]
    // Through JSON, since a driver may add methods to the arrays it gives.
    deepStrictEqual(JSON.parse(JSON.stringify(got)), JSON.parse(JSON.stringify(want)))
    right += 1
  } catch (error) {
    wrong += 1
    console.log(`WRONG ${name}: got ${text(got)}\n    want ${text(want)}`)
  }
}

function text (value) {
  return String(JSON.stringify(value)).slice(0, 600)
}

/** Asks one question; an error is a wrong answer. */
async function ask (name, promise, want, order) {
  try {
    answer(name, await promise, want, order)
  } catch (error) {
    wrong += 1
    console.log(`FAILED ${name}: ${error.name}: ${String(error.msg || error.message).slice(0, 600)}`)
  }
}

/** The query has to fail with this class of error and a message that starts so. */
async function fails (name, promise, kind, start) {
  try {
    answer(name, await promise, 'an error')
  } catch (error) {
    const message = String(error.msg || error.message)
    answer(name, [kindOf(error), message.startsWith(start) ? start : message], [kind, start])
  }
}

/** Drivers name classes in their own ways: `ReqlNonExistenceError` or a type number. */
let kindOf = error => error.name

function load (folder) {
  const movies = JSON.parse(readFileSync(join(folder, 'movies.json')))
  const quakes = JSON.parse(readFileSync(join(folder, 'earthquakes.json'))).features
  return { movies: movies.map((movie, id) => ({ ...movie, id })), quakes }
}

function countBy (rows, key) {
  const counts = new Map()
  for (const row of rows) counts.set(key(row), (counts.get(key(row)) || 0) + 1)
  return [...counts].map(([group, reduction]) => ({ group, reduction }))
}

const sum = numbers => numbers.reduce((a, b) => a + b, 0)

async function fill (r, run, { movies, quakes }) {
  await ask('db_create', run(r.dbCreate('cinema')('dbs_created')), 1)
  for (const [name, rows] of [['movies', movies], ['quakes', quakes]]) {
    await ask('table_create', run(r.db('cinema').tableCreate(name)('tables_created')), 1)
    const batches = []
    for (let start = 0; start < rows.length; start += 150) batches.push(rows.slice(start, start + 150))
    const answers = await Promise.all(batches.map(batch => run(r.db('cinema').table(name).insert(batch))))
    answer(`insert into ${name}`, sum(answers.map(got => got.inserted)), rows.length)
  }
}

async function askReads (r, run, { movies, quakes }) {
  const m = r.db('cinema').table('movies')
  const q = r.db('cinema').table('quakes')
  const mag = quake => quake.properties.mag
  const rated = movies.filter(movie => movie['IMDB Rating'] !== null)
  await ask('count', run(m.count()), movies.length)
  await ask('every document', run(m), movies, 'unordered')
  await ask('get', run(m.get(17)), movies[17])
  await ask('get of nothing', run(m.get(-1)), null)
  await ask('getAll', run(m.getAll(3, 1, 4)), [movies[1], movies[3], movies[4]], 'unordered')
  await ask('between', run(m.between(100, 110)), movies.slice(100, 110), 'unordered')
  await ask('filter by object', run(m.filter({ Distributor: 'Sony' }).count()), movies.filter(x => x.Distributor === 'Sony').length)
  await ask('filter by function', run(m.filter(x => x('IMDB Rating').gt(8.5))('id')), rated.filter(x => x['IMDB Rating'] > 8.5).map(x => x.id), 'unordered')
  await ask('filter by row', run(q.filter(r.row('properties')('mag').ge(5)).count()), quakes.filter(x => mag(x) >= 5).length)
  await ask('avg', run(q.avg(x => x('properties')('mag'))), sum(quakes.map(mag)) / quakes.length)
  await ask('sum', run(m.sum('US Gross')), sum(movies.map(x => x['US Gross'] || 0)))
  await ask('max', run(m.filter(x => x('IMDB Votes').ne(null)).max('IMDB Votes')('id')), rated.reduce((a, b) => (b['IMDB Votes'] > a['IMDB Votes'] ? b : a)).id)
  await ask('group and count', run(m.group('Major Genre').count()), countBy(movies, x => x['Major Genre']), 'unordered')
  await ask('group by function', run(q.group(x => x('properties')('mag').floor()).count()), countBy(quakes, x => Math.floor(mag(x))), 'unordered')
  await ask('ungroup and order', run(q.group(x => x('properties')('net')).count().ungroup().orderBy(r.desc('reduction'), 'group')),
    countBy(quakes, x => x.properties.net).sort((a, b) => b.reduction - a.reduction || (a.group < b.group ? -1 : 1)))
  await ask('orderBy and limit', run(m.orderBy(r.desc('Production Budget'), 'id').limit(20)('id')),
    movies.filter(x => x['Production Budget'] !== null).sort((a, b) => b['Production Budget'] - a['Production Budget'] || a.id - b.id).slice(0, 20).map(x => x.id))
  await ask('orderBy index, backwards', run(m.orderBy({ index: r.desc('id') }).limit(3)('id')), movies.slice(-3).map(x => x.id).reverse())
  await ask('skip and slice', run(m.orderBy({ index: 'id' }).skip(100).slice(5, 8)), movies.slice(105, 108))
  await ask('pluck', run(q.pluck('id', { properties: 'mag' })), quakes.map(x => ({ id: x.id, properties: { mag: mag(x) } })), 'unordered')
  await ask('without and merge', run(m.get(5).without('Title').merge({ a: [1] })('a')), [1])
  await ask('map', run(q.map(x => x('geometry')('coordinates').nth(2))), quakes.map(x => x.geometry.coordinates[2]), 'unordered')
  await ask('concatMap', run(q.concatMap(x => x('properties')('sources').split(',')).distinct()), [...new Set(quakes.flatMap(x => x.properties.sources.split(',')))].sort())
  await ask('reduce', run(q.map(x => x('properties')('sig')).reduce((a, b) => a.add(b))), sum(quakes.map(x => x.properties.sig)))
  await ask('distinct', run(m('MPAA Rating').distinct().count()), new Set(movies.map(x => x['MPAA Rating'])).size)
  await ask('contains', run(m('Director').contains('Clint Eastwood')), movies.some(x => x.Director === 'Clint Eastwood'))
  await ask('hasFields', run(m.hasFields('Director').count()), movies.filter(x => x.Director !== null).length)
  await ask('branch', run(r.branch(m.count().gt(1000), 'many', 'few')), 'many')
  await ask('do', run(m.get(3).do(x => x('id').add(1))), 4)
  await ask('expr', run(r.expr({ a: [1, 2.5, null, true, 'ä€😀'] })), { a: [1, 2.5, null, true, 'ä€😀'] })
  await ask('a date', run(r.expr(new Date(1e12)).toEpochTime()), 1e9)
  const gets = await Promise.all(movies.slice(0, 500).map(movie => run(m.get(movie.id))))
  answer('five hundred gets in flight', gets, movies.slice(0, 500))
}

async function askWrites (r, run) {
  await ask('tableCreate with its options', run(r.db('cinema').tableCreate('scratch', { primaryKey: 'key' })('tables_created')), 1)
  const t = r.db('cinema').table('scratch')
  const made = await run(t.insert([{ n: 1 }, { n: 2 }, { key: 'mine', n: 3 }]))
  answer('generated keys', [made.inserted, made.generated_keys.length], [3, 2])
  await ask('insert of what is there', run(t.insert({ key: 'mine' })('errors')), 1)
  await ask('update', run(t.update(x => ({ n: x('n').mul(10) }))('replaced')), 3)
  await ask('updated', run(t.sum('n')), 60)
  await ask('returnChanges', run(t.get('mine').update({ n: 1 }, { returnChanges: true })('changes')),
    [{ old_val: { key: 'mine', n: 30 }, new_val: { key: 'mine', n: 1 } }])
  await ask('conflict', run(t.insert({ key: 'mine', m: 2 }, { conflict: 'update' })('replaced')), 1)
  await ask('replace', run(t.get('mine').replace(x => x.without('n'))('replaced')), 1)
  await ask('replaced', run(t.get('mine')), { key: 'mine', m: 2 })
  await ask('soft delete', run(t.delete({ durability: 'soft' })('deleted')), 3)
  await ask('sync', run(t.sync()('synced')), 1)
  await ask('tableDrop', run(r.db('cinema').tableDrop('scratch')('tables_dropped')), 1)
}

async function askErrors (r, run) {
  const m = r.db('cinema').table('movies')
  await fails('a division by zero', run(r.expr(1).div(0)), 'ReqlQueryLogicError', 'Cannot divide by zero')
  await fails('a field that is missing', run(m.get(0)('nowhere')), 'ReqlNonExistenceError', 'No attribute `nowhere` in object')
  await fails('a table that is missing', run(r.db('cinema').table('nowhere')), 'ReqlOpFailedError', 'Table `cinema.nowhere` does not exist')
  await fails('an error of one\'s own', run(r.error('mine')), 'ReqlUserError', 'mine')
  await ask('after the errors', run(r.expr(1)), 1)
}

/** All of it; gives the exit code. */
async function askAll (r, run, folder, names) {
  if (names) kindOf = names
  const data = load(folder)
  await fill(r, run, data)
  await askReads(r, run, data)
  await askWrites(r, run)
  await askErrors(r, run)
  return () => {
    console.log(`${right} questions answered, ${wrong} wrong`)
    return wrong === 0 ? 0 : 1
  }
}

module.exports = { ask, answer, askAll, fails }
