"""Questions about movies.json and earthquakes.json in ReQL, each with its answer computed in plain Python from the file.

`READS` are asked of loaded tables and change nothing. Both Python scripts ask them; a question is a row."""

import collections
import json
import math
import os


def load(folder):
    """The movies with their number as key, and the earthquakes with the identifier that they have."""
    with open(os.path.join(folder, "movies.json"), encoding="utf-8") as file:
        movies = [dict(movie, id=number) for number, movie in enumerate(json.load(file))]
    with open(os.path.join(folder, "earthquakes.json"), encoding="utf-8") as file:
        quakes = json.load(file)["features"]
    return movies, quakes


def same(got, want):
    """Equal, with floating point sums equal up to their order of addition."""
    if isinstance(want, bool) or isinstance(got, bool) or want is None or got is None:
        return got is want
    if isinstance(want, (int, float)) and isinstance(got, (int, float)):
        return math.isclose(got, want, rel_tol=1e-9)
    if isinstance(want, dict) and isinstance(got, dict):
        return want.keys() == got.keys() and all(same(got[key], want[key]) for key in want)
    if isinstance(want, (list, tuple)) and isinstance(got, (list, tuple)):
        return len(want) == len(got) and all(map(same, got, want))
    return got == want


def sort_key(value):
    return json.dumps(value, sort_keys=True)


class Asked:
    """Counts answers, and prints the wrong ones."""

    def __init__(self):
        self.right, self.wrong = 0, 0

    def answer(self, name, got, want, ordered=True):
        if not ordered and isinstance(got, list):
            got, want = sorted(got, key=sort_key), sorted(want, key=sort_key)
        if same(got, want):
            self.right += 1
            return
        self.wrong += 1
        print("WRONG %s: got %.600r\n    want %.600r" % (name, got, want))

    def failed(self, name, error):
        self.wrong += 1
        print("FAILED %s: %s: %.600s" % (name, type(error).__name__, error))

    def end(self):
        print("%d questions answered, %d wrong" % (self.right, self.wrong))
        return 1 if self.wrong else 0


def groups(rows, key):
    found = collections.defaultdict(list)
    for row in rows:
        found[key(row)].append(row)
    return found


def mean(numbers):
    return sum(numbers) / len(numbers)


def reads(r, movies, quakes):
    """Rows of (name, query, answer, whether the order of the answer counts)."""
    m, q = r.db("cinema").table("movies"), r.db("cinema").table("quakes")
    genre = lambda movie: movie["Major Genre"]
    dramas = [movie for movie in movies if genre(movie) == "Drama"]
    rated = [movie for movie in movies if movie["IMDB Rating"] is not None]
    by_id = {movie["id"]: movie for movie in movies}
    mags = [quake["properties"]["mag"] for quake in quakes]
    longest = max(len(str(movie["Distributor"] or "")) for movie in movies)
    directors = groups((movie for movie in movies if movie["Director"] is not None), lambda movie: movie["Director"])
    busiest = sorted(((len(found), name) for name, found in directors.items()), reverse=True)[:5]
    yield "count", m.count(), len(movies), True
    yield "every document", m, movies, False
    yield "every quake", q, quakes, False
    yield "get", m.get(17), by_id[17], True
    yield "get of nothing", m.get(-1), None, True
    yield "bracket", m.get(17)["Title"], by_id[17]["Title"], True
    yield "get_all", m.get_all(3, 1, 4, 1), [by_id[key] for key in (3, 1, 4, 1)], False
    yield "get_all of none", m.get_all(), [], True
    yield "get_all through args", m.get_all(r.args([5, 9])), [by_id[5], by_id[9]], False
    yield "between", m.between(100, 110), movies[100:110], False
    yield "between, ends chosen", m.between(100, 110, left_bound="open", right_bound="closed"), movies[101:111], False
    yield "between, no left end", m.between(r.minval, 3)["id"], [0, 1, 2], False
    yield "between, no right end", m.between(len(movies) - 2, r.maxval).count(), 2, True
    yield "between, texts", q.between("ci", "cj").count(), sum("ci" <= x["id"] < "cj" for x in quakes), True
    yield "in key order", m.order_by(index="id").limit(3), movies[:3], True
    yield "in key order, backwards", m.order_by(index=r.desc("id")).limit(3), movies[:-4:-1], True
    yield "between in key order", m.between(50, 60).order_by(index="id")["id"], list(range(50, 60)), True
    yield "filter by object", m.filter({"Major Genre": "Drama"}).count(), len(dramas), True
    yield "filter by nested object", q.filter({"geometry": {"type": "Point"}}).count(), len(quakes), True
    yield "filter by function", m.filter(lambda movie: movie["Major Genre"] == "Drama")["id"], [x["id"] for x in dramas], False
    yield "filter by row", m.filter(r.row["IMDB Rating"] > 8.5)["Title"], [x["Title"] for x in rated if x["IMDB Rating"] > 8.5], False
    yield "filter, where null is less than any number", m.filter(r.row["IMDB Rating"] < 2).count(), \
        sum(x["IMDB Rating"] is None or x["IMDB Rating"] < 2 for x in movies), True
    yield "filter with and", m.filter((r.row["MPAA Rating"] == "PG") & (r.row["Running Time min"] > 120)).count(), \
        sum(x["MPAA Rating"] == "PG" and (x["Running Time min"] or 0) > 120 for x in movies), True
    yield "filter with or", m.filter((r.row["Source"] == "Remake") | (r.row["Source"] == "Based on Comic/Graphic Novel")).count(), \
        sum(x["Source"] in ("Remake", "Based on Comic/Graphic Novel") for x in movies), True
    yield "filter by a missing field", m.filter(r.row["nowhere"] == 1).count(), 0, True
    yield "filter, missing as true", m.filter(r.row["nowhere"] == 1, default=True).count(), len(movies), True
    yield "filter by match", m.filter(r.row["Release Date"].match("Dec .* 2008$"))["id"], \
        [x["id"] for x in movies if x["Release Date"].startswith("Dec ") and x["Release Date"].endswith(" 2008")], False
    yield "filter by type", m.filter(r.row["Title"].type_of() == "NUMBER").count(), sum(type(x["Title"]) is int for x in movies), True
    yield "filter, not", m.filter(~(r.row["Distributor"] == "Sony")).count(), \
        sum(x["Distributor"] != "Sony" for x in movies), True
    yield "sum", m.sum("US DVD Sales"), sum(x["US DVD Sales"] or 0 for x in movies), True
    yield "sum of a function", q.sum(lambda quake: quake["properties"]["mag"]), sum(mags), True
    yield "avg", m.filter(r.row["IMDB Rating"] != None)["IMDB Rating"].avg(), mean([x["IMDB Rating"] for x in rated]), True
    yield "avg of a function", q.avg(r.row["properties"]["mag"]), mean(mags), True
    yield "min", q.min(r.row["properties"]["time"])["id"], min(quakes, key=lambda x: x["properties"]["time"])["id"], True
    yield "max", q.max(r.row["properties"]["time"])["id"], max(quakes, key=lambda x: x["properties"]["time"])["id"], True
    yield "min by index", m.min(index="id")["id"], 0, True
    yield "max by index", m.max(index="id")["id"], len(movies) - 1, True
    yield "count of a value", m["Major Genre"].count("Western"), sum(genre(x) == "Western" for x in movies), True
    yield "count by function", q.count(r.row["properties"]["mag"] >= 5), sum(mag >= 5 for mag in mags), True
    yield "distinct", m["Major Genre"].distinct(), [None] + sorted({genre(x) for x in movies if genre(x)}), True
    yield "distinct of nested", q["geometry"]["type"].distinct(), ["Point"], True
    yield "group and count", m.group("Major Genre").count(), {key: len(found) for key, found in groups(movies, genre).items()}, True
    yield "group and avg", m.filter(r.row["IMDB Rating"].ne(None)).group("Major Genre").avg("IMDB Rating"), \
        {key: mean([x["IMDB Rating"] for x in found]) for key, found in groups(rated, genre).items()}, True
    yield "group by function", q.group(r.row["properties"]["mag"].floor()).count(), \
        {key: len(found) for key, found in groups(quakes, lambda x: math.floor(x["properties"]["mag"])).items()}, True
    yield "group by two", m.group("MPAA Rating", "Creative Type").count(), \
        {key: len(found) for key, found in groups(movies, lambda x: (x["MPAA Rating"], x["Creative Type"])).items()}, True
    yield "group and max", m.filter(r.row["IMDB Votes"].ne(None)).group("Major Genre").max("IMDB Votes")["id"], \
        {key: max((x for x in found if x["IMDB Votes"] is not None), key=lambda x: x["IMDB Votes"])["id"]
         for key, found in groups(rated, genre).items()}, True
    yield "group, ungroup, order", m.filter(r.row["Director"].ne(None)).group("Director").count().ungroup() \
        .order_by(r.desc("reduction"), r.desc("group")).limit(5), \
        [{"group": name, "reduction": number} for number, name in busiest], True
    yield "group, map, reduce", m.group("Major Genre").map(lambda x: x["Worldwide Gross"].default(0)).reduce(lambda a, b: a + b), \
        {key: sum(x["Worldwide Gross"] or 0 for x in found) for key, found in groups(movies, genre).items()}, True
    yield "order_by and limit", m.order_by(r.desc("Worldwide Gross"), "id").limit(10)["id"], \
        [x["id"] for x in sorted((x for x in movies if x["Worldwide Gross"] is not None), key=lambda x: (-x["Worldwide Gross"], x["id"]))[:10]], True
    yield "order_by function", q.order_by(lambda quake: quake["properties"]["time"])["id"].nth(0), \
        min(quakes, key=lambda x: x["properties"]["time"])["id"], True
    yield "order, skip, limit", m.order_by(index="id").skip(1000).limit(5), movies[1000:1005], True
    yield "slice", m.order_by(index="id")[10:20]["id"], list(range(10, 20)), True
    yield "nth", m.order_by(index="id").nth(42), movies[42], True
    yield "limit", m.limit(7).count(), 7, True
    yield "pluck", m.pluck("id", "Title"), [{"id": x["id"], "Title": x["Title"]} for x in movies], False
    yield "pluck nested", q.pluck("id", {"properties": ["mag"]}), [{"id": x["id"], "properties": {"mag": x["properties"]["mag"]}} for x in quakes], False
    yield "without", q.without("properties", "geometry"), [{"id": x["id"], "type": x["type"]} for x in quakes], False
    yield "merge", m.get_all(1, 2).merge({"seen": True}), [dict(by_id[1], seen=True), dict(by_id[2], seen=True)], False
    yield "merge by function", m.get(8).merge(lambda x: {"double": x["US Gross"] * 2}), dict(by_id[8], double=by_id[8]["US Gross"] * 2), True
    yield "map", q.map(lambda x: x["properties"]["mag"] * 10), [mag * 10 for mag in mags], False
    yield "map with branch", m.map(r.branch(r.row["US Gross"] > 100000000, "hit", "other")).count("hit"), \
        sum((x["US Gross"] or 0) > 100000000 for x in movies), True
    yield "concat_map of texts", q.concat_map(lambda x: x["properties"]["types"].split(",")).count("origin"), \
        sum(x["properties"]["types"].split(",").count("origin") for x in quakes), True
    yield "reduce", q.map(r.row["properties"]["sig"]).reduce(lambda a, b: r.branch(a > b, a, b)), max(x["properties"]["sig"] for x in quakes), True
    yield "contains", m["Distributor"].contains("Sony"), any(x["Distributor"] == "Sony" for x in movies), True
    yield "contains by function", m.contains(lambda x: x["Title"] == "nowhere to be found"), False, True
    yield "is_empty", m.filter({"Major Genre": "Cooking"}).is_empty(), True, True
    yield "has_fields", m.has_fields("Director").count(), sum(x["Director"] is not None for x in movies), True
    yield "has_fields, nested", q.has_fields({"properties": {"alert": True}}).count(), sum(x["properties"]["alert"] is not None for x in quakes), True
    yield "default", m.get(0)["nowhere"].default("elsewhere"), "elsewhere", True
    yield "do", m.get(5).do(lambda x: [x["id"], x["Title"]]), [5, by_id[5]["Title"]], True
    yield "longest text", m["Distributor"].filter(lambda x: x.ne(None)).map(lambda x: x.split("").count()).max(), longest, True
    yield "texts", m.get(9)["Title"].coerce_to("string").upcase(), str(by_id[9]["Title"]).upper(), True
    yield "to array", m.limit(3)["id"].coerce_to("array").type_of(), "ARRAY", True
    yield "keys", m.get(0).keys(), sorted(by_id[0]), True
    yield "info", m.info()["primary_key"], "id", True
    yield "expr", r.expr({"a": [1, 2.5, None, True, "ä€😀"], "b": {}}), {"a": [1, 2.5, None, True, "ä€😀"], "b": {}}, True
    yield "arithmetic", (r.expr(7) * 3 - 1) / 4 % 3, 2, True
    yield "subquery in a filter", m.filter(lambda x: q.get("nowhere").eq(None) & (x["id"] < 3))["id"], [0, 1, 2], False
