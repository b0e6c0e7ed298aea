-- Up Migration

create schema memory_replicator;
grant usage on schema memory_replicator to signalbox_memory_replicator, signalbox_queue;

-- Which of the two copies of the replica is live. While rebuild_until is ahead, a rebuild fills the other one.
create table memory_replicator.copies (
  only_row       boolean primary key default true check (only_row),
  live           smallint not null default 0 check (live in (0, 1)),
  switched_at    timestamptz,
  rebuild_owner  uuid,
  rebuild_until  timestamptz,
  -- After a switch all search rows are made again; how far that has come, null when it is done.
  reindex_tenant text,
  reindex_after  uuid
);
insert into memory_replicator.copies default values;
select app.protect_queue_table('memory_replicator.copies');

-- Every memory in its highest version. A deleted one keeps id, version and time, and nothing else.
create table memory_replicator.memories (
  tenant      text not null,
  memory_id   uuid not null,
  copy        smallint not null,
  version     int not null,
  namespace   text,
  session_id  uuid,
  turn_id     uuid,
  persona_id  text,
  role        text,
  body        text,
  occurred_at timestamptz,
  stored_at   timestamptz,
  expires_at  timestamptz,
  metadata    jsonb,
  deleted_at  timestamptz,
  primary key (tenant, memory_id, copy),
  check ((body is null) = (deleted_at is not null))
) partition by list (copy);
create table memory_replicator.memories_0 partition of memory_replicator.memories for values in (0);
create table memory_replicator.memories_1 partition of memory_replicator.memories for values in (1);
select app.protect_tenant_table('memory_replicator.memories', 'SELECT, INSERT, UPDATE', 'signalbox_memory_replicator');
-- The functions for all tenants (search, rebuild, compaction) run as signalbox_queue.
grant select, insert, update, delete on memory_replicator.memories to signalbox_queue;
create policy all_tenants on memory_replicator.memories to signalbox_queue using (true) with check (true);
do $$
declare
  v_copy text;
begin
  foreach v_copy in array array['memories_0', 'memories_1'] loop
    execute format('alter table memory_replicator.%I enable row level security, force row level security', v_copy);
    execute format('alter table memory_replicator.%I set (autovacuum_vacuum_scale_factor = 0.05,
      autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.05)', v_copy);
    perform app.let_owner_pass(format('memory_replicator.%I', v_copy)::regclass);
    execute format('grant truncate on memory_replicator.%I to signalbox_queue', v_copy);
  end loop;
end $$;

-- Memories whose search rows are to be made: one row for what one intake has changed of a tenant. Not read in the order
-- of ids: a row is there once its intake has committed, and stays until its memories are in the index.
create table memory_replicator.to_index (
  id         bigint generated always as identity primary key,
  tenant     text not null,
  memory_ids uuid[] not null,
  put_at     timestamptz not null default clock_timestamp()
);
select app.protect_queue_table('memory_replicator.to_index');

create function memory_replicator.live_copy() returns smallint
  language sql stable security definer set search_path = pg_catalog, pg_temp
as $$ select live from memory_replicator.copies $$;

create function memory_replicator.index_later(p_tenant text, p_memory_ids uuid[]) returns void
  language sql security definer set search_path = pg_catalog, pg_temp
as $$
  insert into memory_replicator.to_index (tenant, memory_ids)
  select p_tenant, p_memory_ids where cardinality(p_memory_ids) > 0
$$;

-- The copies to write to, in this transaction: the intake's are the live one, and the other one too while a rebuild fills it;
-- a rebuild's own is the other one, while its lease holds. A rebuild begins and switches under the exclusive lock, so
-- nobody is under way with an older answer.
create function memory_replicator.copies_to_write(p_rebuild uuid) returns smallint[]
  language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_copies memory_replicator.copies;
begin
  perform pg_advisory_xact_lock_shared(7241865325824070);
  select * into v_copies from memory_replicator.copies;
  if p_rebuild is null then
    return case when v_copies.rebuild_until > clock_timestamp() then array[v_copies.live, (1 - v_copies.live)::smallint]
                else array[v_copies.live] end;
  elsif v_copies.rebuild_owner = p_rebuild and v_copies.rebuild_until > clock_timestamp() then
    return array[(1 - v_copies.live)::smallint];
  end if;
  raise exception 'the rebuild is no longer under way' using errcode = 'SB001';
end $$;

-- Takes records of memory.wal, those of a tenant beside each other (p_counts of each of p_tenants), each memory once; for
-- the intake, or with its id for a rebuild. A row changes only for a higher version. Rows are locked in the order of
-- their ids. Answers how many rows of the live copy have changed.
create function memory_replicator.take(
  p_rebuild uuid, p_tenants text[], p_counts int[], p_ids uuid[], p_versions int[], p_namespaces text[], p_sessions uuid[],
  p_turns uuid[], p_personas text[], p_roles text[], p_bodies text[], p_occurred timestamptz[], p_stored timestamptz[],
  p_expires timestamptz[], p_metadata jsonb[], p_deleted timestamptz[]) returns int
  language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
as $$
declare
  v_copies smallint[] := memory_replicator.copies_to_write(p_rebuild);
  v_copy smallint;
  v_from int := 1;
  v_to int;
  v_changed uuid[];
  v_total int := 0;
begin
  for i in 1 .. cardinality(p_tenants) loop
    v_to := v_from + p_counts[i] - 1;
    perform set_config('app.tenant', p_tenants[i], true);
    foreach v_copy in array v_copies loop
      with written as (
        insert into memory_replicator.memories as m (tenant, memory_id, copy, version, namespace, session_id, turn_id,
          persona_id, role, body, occurred_at, stored_at, expires_at, metadata, deleted_at)
        select p_tenants[i], u.memory_id, v_copy, u.version, u.namespace, u.session_id, u.turn_id, u.persona_id, u.role,
          u.body, u.occurred_at, u.stored_at, u.expires_at, u.metadata, u.deleted_at
        from unnest(p_ids[v_from:v_to], p_versions[v_from:v_to], p_namespaces[v_from:v_to], p_sessions[v_from:v_to],
          p_turns[v_from:v_to], p_personas[v_from:v_to], p_roles[v_from:v_to], p_bodies[v_from:v_to],
          p_occurred[v_from:v_to], p_stored[v_from:v_to], p_expires[v_from:v_to], p_metadata[v_from:v_to],
          p_deleted[v_from:v_to])
          as u (memory_id, version, namespace, session_id, turn_id, persona_id, role, body, occurred_at, stored_at,
            expires_at, metadata, deleted_at)
        order by u.memory_id
        on conflict (tenant, memory_id, copy) do update set
          version = excluded.version, namespace = excluded.namespace, session_id = excluded.session_id,
          turn_id = excluded.turn_id, persona_id = excluded.persona_id, role = excluded.role, body = excluded.body,
          occurred_at = excluded.occurred_at, stored_at = excluded.stored_at, expires_at = excluded.expires_at,
          metadata = excluded.metadata, deleted_at = excluded.deleted_at
        where m.version < excluded.version
        returning m.memory_id)
      select array_agg(w.memory_id) into v_changed from written w;
      if v_copy = v_copies[1] and v_changed is not null then
        if p_rebuild is null then perform memory_replicator.index_later(p_tenants[i], v_changed); end if;
        v_total := v_total + cardinality(v_changed);
      end if;
    end loop;
    v_from := v_to + 1;
  end loop;
  return v_total;
end $$;
revoke all on function memory_replicator.take from public;
grant execute on function memory_replicator.take to signalbox_memory_replicator;

select app.protect_queue_functions('memory_replicator', 'signalbox_memory_replicator');

-- Down Migration
drop schema memory_replicator cascade;
