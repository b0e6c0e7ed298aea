-- Up Migration

-- What becomes of dead letters: they are looked at, replayed (each once), purged, and forgotten after their time.
alter table messaging.dead_letters
  -- The event that it went out again as, and who asked: `key:<key id>` of a tenant, `operator:<database role>`.
  add column replayed_as uuid,
  add column replayed_by text;

-- A topic's page, newest first: ids are UUIDv7.
create index dead_letters_page on messaging.dead_letters (tenant, topic, id);
create index dead_letters_age on messaging.dead_letters (created_at);

-- A page of one tenant's, newest first; null topic: of all topics. States: waiting, replayed, all. Without contents:
-- neither value nor headers nor detail, which may hold what people wrote.
create function messaging.dead_letter_list(p_tenant text, p_topic text, p_state text, p_before uuid, p_limit int)
  returns table (id uuid, topic text, partition int, record_offset bigint, record_time timestamptz, consumer text,
    reason text, attempts int, key text, event_id uuid, event_type text, replay_of text, value_bytes int,
    created_at timestamptz, replayed_at timestamptz, replayed_as uuid)
  language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select d.id, d.topic, d.partition, d.record_offset, d.record_time, d.consumer, d.reason, d.attempts, d.key, d.event_id,
    d.headers ->> 'event_type', d.headers ->> 'replay_of', octet_length(d.value), d.created_at, d.replayed_at, d.replayed_as
  from messaging.dead_letters d
  where d.tenant = p_tenant and (p_topic is null or d.topic = p_topic) and (p_before is null or d.id < p_before)
    and case p_state when 'waiting' then d.replayed_at is null when 'replayed' then d.replayed_at is not null else true end
  order by d.id desc limit p_limit
$$;

-- One of a tenant's, whole; no row where it is another tenant's or topic's.
create function messaging.dead_letter_get(p_tenant text, p_topic text, p_id uuid) returns setof messaging.dead_letters
  language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select * from messaging.dead_letters d
  where d.tenant = p_tenant and d.id = p_id and (p_topic is null or d.topic = p_topic)
$$;

-- The same under its lock, for a replay: of two at once the later sees what the earlier has done.
create function messaging.dead_letter_lock(p_tenant text, p_topic text, p_id uuid) returns setof messaging.dead_letters
  language sql security definer set search_path = pg_catalog, pg_temp
as $$
  select * from messaging.dead_letters d
  where d.tenant = p_tenant and d.id = p_id and (p_topic is null or d.topic = p_topic)
  for update
$$;

-- Enters what it was replayed as; false when it had been before, or is not there.
create function messaging.dead_letter_replayed(p_tenant text, p_id uuid, p_event_id uuid, p_by text) returns boolean
  language sql security definer set search_path = pg_catalog, pg_temp
as $$
  with done as (
    update messaging.dead_letters d
      set replayed_at = clock_timestamp(), replayed_as = p_event_id, replayed_by = p_by
      where d.tenant = p_tenant and d.id = p_id and d.replayed_at is null returning 1)
  select exists (select from done)
$$;

create function messaging.dead_letter_purge(p_tenant text, p_topic text, p_id uuid) returns boolean
  language sql security definer set search_path = pg_catalog, pg_temp
as $$
  with gone as (
    delete from messaging.dead_letters d
      where d.tenant = p_tenant and d.id = p_id and (p_topic is null or d.topic = p_topic) returning 1)
  select exists (select from gone)
$$;

-- Those of a topic that were put aside before a time, replayed or not, the oldest first, at most p_limit.
create function messaging.dead_letter_purge_before(p_tenant text, p_topic text, p_before timestamptz, p_limit int)
  returns bigint
  language sql security definer set search_path = pg_catalog, pg_temp
as $$
  with gone as (
    delete from messaging.dead_letters d
      where d.tenant = p_tenant and d.id = any (array(
        select o.id from messaging.dead_letters o
        where o.tenant = p_tenant and o.topic = p_topic and o.created_at < p_before
        order by o.id limit p_limit for update))
      returning 1)
  select count(*) from gone
$$;

-- Forgets what is past its time, of all tenants, at most p_limit rows; one caller at a time, the others answer 0.
create function messaging.dead_letter_prune(p_older_than interval, p_limit int, out gone bigint, out never_replayed bigint)
  language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  gone := 0;
  never_replayed := 0;
  if not pg_try_advisory_xact_lock(hashtextextended('messaging.dead_letter_prune', 0)) then
    return;
  end if;
  with deleted as (
    delete from messaging.dead_letters d where d.ctid = any (array(
      select o.ctid from messaging.dead_letters o where o.created_at < clock_timestamp() - p_older_than
      order by o.created_at limit p_limit for update))
    returning d.replayed_at)
  select count(*), count(*) filter (where x.replayed_at is null) into gone, never_replayed from deleted x;
end $$;

-- For operators: what waits, over all tenants.
create function messaging.dead_letter_overview()
  returns table (tenant text, topic text, reason text, waiting bigint, oldest timestamptz, newest timestamptz)
  language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select d.tenant, d.topic, d.reason, count(*), min(d.created_at), max(d.created_at)
  from messaging.dead_letters d where d.replayed_at is null
  group by d.tenant, d.topic, d.reason order by d.tenant, d.topic, d.reason
$$;

-- Every service asks for the depth every 15 s, so it must not cost more the worse things are: the topics are found by one
-- look each into the index of those that wait, and of each topic at most 100 000 are counted.
create or replace function messaging.dead_letter_depth() returns table (topic text, depth bigint)
  language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  with recursive found as (
    (select d.topic from messaging.dead_letters d where d.replayed_at is null order by d.topic limit 1)
    union all
    select (select d.topic from messaging.dead_letters d
            where d.replayed_at is null and d.topic > f.topic order by d.topic limit 1)
    from found f where f.topic is not null)
  select f.topic, (
    select count(*) from (
      select from messaging.dead_letters d where d.replayed_at is null and d.topic = f.topic limit 100000) counted)
  from found f where f.topic is not null
$$;

-- Tenants reach theirs through the gateway alone; the overview and '_unknown' are an operator's, who comes as the owner
-- of the tables or as a member of signalbox_queue.
select app.protect_queue_functions('messaging', 'signalbox_gateway');
revoke execute on function messaging.dead_letter_overview, messaging.dead_letter_prune from signalbox_gateway;
grant execute on function messaging.dead_letter_prune to signalbox_outbox_sync;

-- Down Migration
drop function messaging.dead_letter_overview, messaging.dead_letter_prune, messaging.dead_letter_purge_before,
  messaging.dead_letter_purge, messaging.dead_letter_replayed, messaging.dead_letter_lock, messaging.dead_letter_get,
  messaging.dead_letter_list;
create or replace function messaging.dead_letter_depth() returns table (topic text, depth bigint)
  language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select d.topic, count(*) from messaging.dead_letters d where d.replayed_at is null group by d.topic
$$;
drop index messaging.dead_letters_age, messaging.dead_letters_page;
alter table messaging.dead_letters drop column replayed_as, drop column replayed_by;
