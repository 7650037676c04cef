"""Pools on PostgreSQL, for fleets that outgrow one host; from the extra ``fastclaim[postgres]``.

address.py      the URL, and what of it may be shown
schema.py       the tables, and how they come to be
server.py       this process's connections, re-made when they break
session.py      who is alive, and who waits: advisory locks, LISTEN and NOTIFY
trouble.py      what a server that cannot be reached, or refuses, becomes
database.py     a pool's tables on a server
publication.py  from a caller's dict to a row;  documents.py: back
publishing.py, claiming.py, selecting.py, finishing.py, recovery.py     the transitions
window.py       how many tasks of each kind a claim looks at
news.py         what wakes coroutines that wait
listing.py, upkeep.py, health.py                                        looking after a pool
pool.py         `PostgresPool`: the verbs
registry.py, messaging.py               `A2AClient`'s
migrate.py, migrate_agents.py           from a directory to a server, and back
"""

try:
    import psycopg  # noqa: F401
    import psycopg_pool  # noqa: F401
except ImportError as error:
    raise ImportError(
        f'pools on PostgreSQL need psycopg: pip install "fastclaim[postgres]" ({error})',
        name=error.name,
    ) from None
