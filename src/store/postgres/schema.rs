//! The tables, made only by `store init`.

/// The schema version of this release.
pub(super) const VERSION: i32 = 1;

/// Each entry brings the schema from the version of its index to the next; released ones never change.
pub(super) const MIGRATIONS: [&str; VERSION as usize] = ["
    CREATE SCHEMA omero_grid;
    CREATE TABLE omero_grid.meta (
        one     boolean PRIMARY KEY DEFAULT true CHECK (one),
        version integer NOT NULL
    );
    INSERT INTO omero_grid.meta (version) VALUES (0);
    CREATE TABLE omero_grid.account (
        id         bigint PRIMARY KEY,
        name       text NOT NULL UNIQUE,
        hash       text,
        admin      boolean NOT NULL DEFAULT false,
        changed_ms bigint NOT NULL
    );
    CREATE TABLE omero_grid.server (
        grid        text NOT NULL,
        id          text NOT NULL,
        epoch       bigint NOT NULL,
        process     text NOT NULL,
        started_ms  bigint NOT NULL,
        stopped_ms  bigint,
        batch       bigint NOT NULL DEFAULT 0,
        lease_until timestamptz NOT NULL,
        lease_place text NOT NULL,
        PRIMARY KEY (grid, id)
    ) WITH (fillfactor = 20);
    CREATE TABLE omero_grid.session (
        uuid           text PRIMARY KEY,
        grid           text NOT NULL,
        user_id        bigint NOT NULL,
        user_name      text NOT NULL,
        server         text NOT NULL,
        epoch          bigint NOT NULL,
        agent          text NOT NULL,
        ip             text NOT NULL,
        started_ms     bigint NOT NULL,
        last_access_ms bigint NOT NULL,
        tti_ms         bigint NOT NULL,
        ttl_ms         bigint NOT NULL,
        refs           integer NOT NULL,
        token          text,
        closed_ms      bigint,
        reason         text,
        event          text NOT NULL,
        grp            text NOT NULL
    ) WITH (fillfactor = 80);
    CREATE INDEX session_open ON omero_grid.session (grid, server) WHERE closed_ms IS NULL;
    CREATE INDEX session_closed ON omero_grid.session (grid, closed_ms) WHERE closed_ms IS NOT NULL;
    CREATE UNIQUE INDEX session_token ON omero_grid.session (grid, token) WHERE token IS NOT NULL;
    CREATE INDEX session_by_user ON omero_grid.session (grid, user_id) WHERE closed_ms IS NULL;
"];

/// Serialises `store init`: any number, the same everywhere.
pub(super) const INIT_LOCK: i64 = 0x4f4d_6772;

/// What a role needs that runs a grid on a schema that another role has made.
pub(super) const GRANTS: [&str; 2] = [
    "GRANT USAGE ON SCHEMA omero_grid TO",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA omero_grid TO",
];
