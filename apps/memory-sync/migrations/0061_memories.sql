-- Up Migration

-- One row a version of a memory. The row is the inbox of its write: a second write under its idempotency key is a repeat.
-- `waiting`: to be pushed to the memory backend. `stored`: its record is in memory.wal (or in the outbox, on the way there).
-- `failed`: the backend did not take it; requeue gives it a second chance. `superseded`: a later version is stored.
--
-- Who stores a version inserts the next number of its memory, so of two transactions at once the primary key lets one
-- through; the other is repeated and sees what the first has done.
create table memory_sync.memories (
  tenant          text collate "C" not null,
  memory_id       uuid not null,
  version         int not null,
  idempotency_key bytea not null,
  state           text not null,
  -- The memory was deleted by this version: the last one, whatever is written under its id later.
  deleted         boolean not null,
  -- The item as it was written; null in a deletion, and once a later version is stored.
  value           jsonb,
  written_at      timestamptz not null default clock_timestamp(),
  superseded_at   timestamptz,
  last_error      text,
  primary key (tenant, memory_id, version)
);
select app.protect_queue_table('memory_sync.memories');
-- A look-up by key cannot take the primary key for it, nor one by memory this: they differ in the collation of the tenant.
-- On an empty table both cost the same, and the plan that is made then reads all rows of the tenant later on.
create unique index memories_key on memory_sync.memories (tenant collate "POSIX", idempotency_key);
create index memories_waiting on memory_sync.memories (written_at) where state = 'waiting';
create index memories_failed on memory_sync.memories (tenant, memory_id) where state = 'failed';
create index memories_superseded on memory_sync.memories (superseded_at) where superseded_at is not null;

-- The work row of a version: the same whoever asks.
create function memory_sync.push_id(p_memory_id uuid, p_version int) returns uuid
  language sql immutable parallel safe
  return md5(p_memory_id::text || ':' || p_version)::uuid;

-- The versions below this one are done with: their text goes now, their rows (the inbox) later.
create function memory_sync.supersede(p_tenant text, p_memory_id uuid, p_version int) returns void
  language sql security definer set search_path = pg_catalog, pg_temp
as $$
  update memory_sync.memories m set state = 'superseded', value = null, superseded_at = clock_timestamp()
  where m.tenant = p_tenant and m.memory_id = p_memory_id and m.version < p_version and m.superseded_at is null
$$;

-- Stores a batch of writes and deletions, in its order, and answers with what was stored: the place in the batch, the
-- version, the work row's id. What is missing in the answer had no effect:
--   its key is there (a redelivered record, a second record under it)
--   its memory was deleted: a deletion is final, also of an id that nobody has written yet
--   it is the memory's first version (p_firsts: the id is derived from the key) and a later one has overtaken it
-- With p_push the rows wait for the backend; without they are stored, and so is their record by the caller's transaction.
-- 23505: another transaction stored the next version of one of these memories; call it again in a new transaction.
create function memory_sync.store(
  p_push boolean, p_tenants text[], p_memory_ids uuid[], p_keys text[], p_deletes boolean[], p_firsts boolean[], p_values jsonb)
  returns table (ord int, version int, push_id uuid)
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  -- Planned once: planning takes longer than running, and statistics of an empty table would be wrong for a full one.
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
  v_stored record;
  v_places int[] := '{}';
begin
  for v_stored in
    -- Sub-selects, not joins: each row is found by itself, whatever the statistics say.
    with looked as materialized (
      select u.ord::int as ord, u.tenant, u.memory_id, decode(u.key, 'hex') as key, u.is_delete, u.is_first,
             (select m.version * 2 + m.deleted::int from memory_sync.memories m
              where m.tenant = u.tenant and m.memory_id = u.memory_id order by m.version desc limit 1) as last_mark,
             (select true from memory_sync.memories m
              where m.tenant collate "POSIX" = u.tenant and m.idempotency_key = decode(u.key, 'hex')) as is_known
      from unnest(p_tenants, p_memory_ids, p_keys, p_deletes, p_firsts)
        with ordinality as u(tenant, memory_id, key, is_delete, is_first, ord)
    ),
    judged as (
      select l.*, l.last_mark / 2 as last, row_number() over (partition by l.tenant, l.key order by l.ord) as nth
      from looked l
      where l.is_known is null and coalesce(l.last_mark % 2, 0) = 0 and not (l.is_first and l.last_mark is not null)
    ),
    fresh as (
      select j.*, bool_or(j.is_delete) over before as gone, count(*) over before as earlier
      from judged j where j.nth = 1
      window before as (partition by j.tenant, j.memory_id order by j.ord rows between unbounded preceding and 1 preceding)
    ),
    numbered as materialized (
      select f.*, coalesce(f.last, 0) + row_number() over (partition by f.tenant, f.memory_id order by f.ord) as version,
             not p_push and lead(f.ord) over (partition by f.tenant, f.memory_id order by f.ord) is not null as passed
      from fresh f where f.gone is not true and not (f.is_first and f.earlier > 0)
    ),
    inserted as (
      insert into memory_sync.memories (tenant, memory_id, version, idempotency_key, state, deleted, value, superseded_at)
      select n.tenant, n.memory_id, n.version, n.key,
             case when p_push then 'waiting' when n.passed then 'superseded' else 'stored' end, n.is_delete,
             case when not n.is_delete and not n.passed then p_values -> (n.ord - 1) end,
             case when n.passed then clock_timestamp() end
      from numbered n order by n.tenant, n.memory_id, n.version
    )
    select n.ord, n.version::int as version, n.tenant, n.memory_id, n.last is not null as is_next from numbered n order by n.ord
  loop
    ord := v_stored.ord;
    version := v_stored.version;
    push_id := case when p_push then memory_sync.push_id(v_stored.memory_id, v_stored.version) end;
    return next;
    if v_stored.is_next and not p_push then
      v_places := v_places || v_stored.ord;
    end if;
  end loop;
  if cardinality(v_places) > 0 then
    perform memory_sync.supersede(s.tenant, s.memory_id, s.version) from (
      select p_tenants[p] as tenant, p_memory_ids[p] as memory_id, max(m.version) as version
      from unnest(v_places) as p
      join memory_sync.memories m on m.tenant = p_tenants[p] and m.memory_id = p_memory_ids[p]
      group by 1, 2 order by 1, 2) s;
  end if;
end $$;

-- What is to be pushed, by place. A version that is no longer waiting (a later one is stored) has no row.
create function memory_sync.to_push(p_tenants text[], p_memory_ids uuid[], p_versions int[])
  returns table (ord int, deleted boolean, idempotency_key text, value jsonb)
  language sql stable security definer set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
  select u.ord::int, m.deleted, encode(m.idempotency_key, 'hex'), m.value
  from unnest(p_tenants, p_memory_ids, p_versions) with ordinality as u(tenant, memory_id, version, ord)
  join memory_sync.memories m on m.tenant = u.tenant and m.memory_id = u.memory_id and m.version = u.version
  where m.superseded_at is null
$$;

-- The backend has it: state, end of the work and the record of memory.wal in one transaction. SB001 when the lane is
-- another's. Answers with the outbox's row; with none when a later version was stored meanwhile, whose record stands.
create function memory_sync.finish_push(
  p_tenant text, p_key text, p_owner uuid, p_fence bigint, p_id uuid, p_version int,
  p_writer uuid, p_topics text[], p_keys text[], p_event_ids uuid[], p_headers jsonb, p_values bytea[])
  returns table (ord int, id bigint, fast boolean, prev_id bigint)
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan
as $$
begin
  perform memory_sync.work_finish(p_tenant, p_key, p_owner, p_fence, p_id, 'done', null, null);
  update memory_sync.memories m set state = 'stored', last_error = null
  where m.tenant = p_tenant and m.memory_id = p_key::uuid and m.version = p_version and m.superseded_at is null;
  if not found then
    return;
  end if;
  if p_version > 1 then
    perform memory_sync.supersede(p_tenant, p_key::uuid, p_version);
  end if;
  return query select * from messaging.outbox_put(
    p_writer, p_tenant, p_topics, p_keys, p_event_ids, p_headers, p_values);
end $$;

-- The tries are spent, or the backend has refused it: state, end of the work and what people are told.
create function memory_sync.fail_push(
  p_tenant text, p_key text, p_owner uuid, p_fence bigint, p_id uuid, p_version int, p_error text,
  p_writer uuid, p_topics text[], p_keys text[], p_event_ids uuid[], p_headers jsonb, p_values bytea[])
  returns table (ord int, id bigint, fast boolean, prev_id bigint)
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan
as $$
begin
  perform memory_sync.work_finish(p_tenant, p_key, p_owner, p_fence, p_id, 'failed', p_error, null);
  update memory_sync.memories m set state = 'failed', last_error = p_error
  where m.tenant = p_tenant and m.memory_id = p_key::uuid and m.version = p_version and m.superseded_at is null;
  if not found then
    return;
  end if;
  return query select * from messaging.outbox_put(
    p_writer, p_tenant, p_topics, p_keys, p_event_ids, p_headers, p_values);
end $$;

-- Memories that are not in memory.wal yet.
create function memory_sync.backlog() returns table (waiting bigint, failed bigint)
  language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select (select count(*) from memory_sync.memories m where m.state = 'waiting'),
         (select count(*) from memory_sync.memories m where m.state = 'failed')
$$;

-- The same one by one, for operators; null stands for every tenant.
create function memory_sync.open_memories(p_tenant text, p_state text, p_limit int)
  returns table (tenant text, memory_id uuid, version int, deleted boolean, written_at timestamptz, last_error text)
  language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select m.tenant::text, m.memory_id, m.version, m.deleted, m.written_at, m.last_error
  from memory_sync.memories m
  where ((m.state = 'failed' and p_state = 'failed') or (m.state = 'waiting' and p_state = 'waiting'))
    and (p_tenant is null or m.tenant = p_tenant)
  order by m.tenant, m.memory_id, m.version limit p_limit
$$;

-- A second chance for up to p_limit failed versions, of one tenant or memory where these are given; answers how many.
-- A version stays before the later ones of its memory that still wait.
create function memory_sync.requeue(p_tenant text, p_memory_id uuid, p_limit int) returns int
  language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_failed record;
  v_done int := 0;
begin
  perform memory_sync.work_lock(array_agg(f.tenant::text), array_agg(f.memory_id::text)) from (
    select m.tenant, m.memory_id from memory_sync.memories m
    where m.state = 'failed' and (p_tenant is null or m.tenant = p_tenant) and (p_memory_id is null or m.memory_id = p_memory_id)
    order by m.tenant, m.memory_id, m.version limit p_limit) f;
  for v_failed in
    select m.tenant::text as tenant, m.memory_id, m.version from memory_sync.memories m
    where m.state = 'failed' and (p_tenant is null or m.tenant = p_tenant) and (p_memory_id is null or m.memory_id = p_memory_id)
    order by m.tenant, m.memory_id, m.version limit p_limit
  loop
    update memory_sync.memories m set state = 'waiting', last_error = null
    where m.tenant = v_failed.tenant and m.memory_id = v_failed.memory_id and m.version = v_failed.version
      and m.state = 'failed';
    continue when not found;
    v_done := v_done + 1;
    -- Its work row may be too old to be there still.
    if not memory_sync.work_requeue(v_failed.tenant, memory_sync.push_id(v_failed.memory_id, v_failed.version)) then
      perform memory_sync.work_enqueue(jsonb_build_array(jsonb_build_object(
        'tenant', v_failed.tenant, 'id', memory_sync.push_id(v_failed.memory_id, v_failed.version),
        'key', v_failed.memory_id::text, 'payload', jsonb_build_object('version', v_failed.version))));
    end if;
  end loop;
  return v_done;
end $$;

-- Deletes up to p_limit rows of versions that were superseded more than p_older_ms ago. The age outlives the retention of
-- memory.writes, because the row is the inbox. The last version of a memory stays.
create function memory_sync.forget_superseded(p_older_ms bigint, p_limit int) returns int
  language sql security definer set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
  with old as (
    select m.tenant, m.memory_id, m.version from memory_sync.memories m
    where m.superseded_at < clock_timestamp() - make_interval(secs => p_older_ms / 1000.0)
    order by m.superseded_at limit p_limit for update skip locked
  ), gone as (
    delete from memory_sync.memories m using old
    where m.tenant = old.tenant and m.memory_id = old.memory_id and m.version = old.version returning 1
  )
  select count(*)::int from gone
$$;

select app.protect_queue_functions('memory_sync', 'signalbox_memory_sync');
grant execute on function memory_sync.push_id to signalbox_queue;
-- For operators alone: members of signalbox_queue, as the owner of the tables is.
revoke execute on function memory_sync.requeue, memory_sync.open_memories from signalbox_memory_sync;

-- Down Migration

drop function memory_sync.forget_superseded, memory_sync.requeue, memory_sync.open_memories, memory_sync.backlog,
  memory_sync.fail_push, memory_sync.finish_push, memory_sync.to_push, memory_sync.store, memory_sync.supersede,
  memory_sync.push_id;
drop table memory_sync.memories;
