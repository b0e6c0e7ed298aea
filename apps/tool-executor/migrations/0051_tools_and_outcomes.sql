-- Up Migration

-- What became of a call, the value of its tool.outcome, is the `result` of its row: a request that comes again is answered
-- from there for as long as the row is its inbox.

-- The tools a tenant may call: the source of tool.catalog. `name` is also the name of what runs. A tenant gets a tool of
-- the release by a row of tenant and name alone: what the release says of it is filled in by the service, which knows it,
-- and again when a later release says something else.
create table tool_executor.tools (
  tenant            text not null,
  name              text not null check (name ~ '^[A-Za-z0-9_.-]{1,64}$'),
  description       text not null default '',
  parameters        jsonb not null default '{"type": "object"}' check (jsonb_typeof(parameters) = 'object'),
  idempotent        boolean not null default false,
  timeout_ms        int not null default 30000 check (timeout_ms > 0),
  enabled           boolean not null default true,
  -- The definition of the release that the row was filled from; null: not yet.
  filled_from       text,
  -- Rises with every change, so that a copy never goes back.
  version           bigint not null default 1,
  published_version bigint,
  primary key (tenant, name)
);
select app.protect_tenant_table('tool_executor.tools', 'SELECT, INSERT, UPDATE', 'signalbox_tool_executor');
create policy queue_passes on tool_executor.tools to signalbox_queue using (true) with check (true);
grant select, update on tool_executor.tools to signalbox_queue;
create index tools_unfilled on tool_executor.tools (name) where filled_from is null;
create index tools_unpublished on tool_executor.tools (tenant, name)
  where filled_from is not null and published_version is distinct from version;

create function tool_executor.raise_tool_version() returns trigger
  language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if (new.description, new.parameters, new.idempotent, new.timeout_ms, new.enabled)
     is distinct from (old.description, old.parameters, old.idempotent, old.timeout_ms, old.enabled) then
    new.version := old.version + 1;
  end if;
  return new;
end $$;
create trigger raise_tool_version before update on tool_executor.tools
  for each row execute function tool_executor.raise_tool_version();

-- A tool of a tenant, for a call of it.
create function tool_executor.find_tool(p_tenant text, p_name text)
  returns table (parameters jsonb, idempotent boolean, timeout_ms int, enabled boolean, version bigint)
  language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select t.parameters, t.idempotent, t.timeout_ms, t.enabled, t.version
  from tool_executor.tools t where t.tenant = p_tenant and t.name = p_name
$$;

-- Fills in what the release says of its tools: [{name, description, parameters, idempotent, timeout_ms, filled_from}, …].
-- At a start all rows of these names that were filled from something else; later on only new ones, which an index finds.
create function tool_executor.fill_tools(p_tools jsonb, p_only_new boolean) returns bigint
  language sql security definer set search_path = pg_catalog, pg_temp
as $$
  with release as (
    select * from jsonb_to_recordset(p_tools)
      as r(name text, description text, parameters jsonb, idempotent boolean, timeout_ms int, filled_from text)
  ), due as (
    select t.tenant, t.name from tool_executor.tools t join release r on r.name = t.name
    where t.filled_from is null or (not p_only_new and t.filled_from <> r.filled_from)
    order by t.tenant, t.name for update of t skip locked
  ), filled as (
    update tool_executor.tools t
    set description = r.description, parameters = r.parameters, idempotent = r.idempotent, timeout_ms = r.timeout_ms,
        filled_from = r.filled_from
    from due, release r
    where t.tenant = due.tenant and t.name = due.name and r.name = t.name
    returning 1
  )
  select count(*) from filled
$$;

-- Entries that changed since they were last published, marked as published by the caller's transaction, which puts them
-- into the outbox. Two replicas that start at once share them: a row that the other has locked is the other's.
create function tool_executor.take_unpublished(p_limit int)
  returns table (tenant text, name text, description text, parameters jsonb, idempotent boolean, timeout_ms int,
                 enabled boolean, version bigint)
  language sql security definer set search_path = pg_catalog, pg_temp
as $$
  update tool_executor.tools t set published_version = t.version
  from (select u.tenant, u.name from tool_executor.tools u
        where u.filled_from is not null and u.published_version is distinct from u.version
        order by u.tenant, u.name limit p_limit for update skip locked) u
  where t.tenant = u.tenant and t.name = u.name
  returning t.tenant, t.name, t.description, t.parameters, t.idempotent, t.timeout_ms, t.enabled, t.version
$$;

-- Outcomes of calls that were asked for again. A call that still runs has none: its answer will come.
create function tool_executor.stored_outcomes(p_tenants text[], p_ids uuid[])
  returns table (tenant text, id uuid, outcome jsonb)
  language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select c.tenant::text, c.id, c.result
  from unnest(p_tenants, p_ids) as n(tenant, id)
  join tool_executor.calls c on c.tenant = n.tenant and c.id = n.id
  where c.result is not null
$$;

-- The holder's last word: outcome, end of the work and answer in one transaction. SB001 when the lane is another's:
-- then nothing of it happens, and the other's outcome is the one that is told.
create function tool_executor.finish_call(
  p_tenant text, p_key text, p_owner uuid, p_fence bigint, p_id uuid, p_outcome jsonb,
  p_writer uuid, p_topics text[], p_keys text[], p_event_ids uuid[], p_headers jsonb, p_values bytea[])
  returns table (ord int, id bigint, fast boolean, prev_id bigint)
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan
as $$
begin
  perform tool_executor.work_finish(p_tenant, p_key, p_owner, p_fence, p_id, 'done', null, p_outcome);
  return query select * from messaging.outbox_put(
    p_writer, p_tenant, p_topics, p_keys, p_event_ids, p_headers, p_values);
end $$;

-- What the holder tells on the way (started, progress). SB001 when the lane is another's.
create function tool_executor.tell_call(
  p_tenant text, p_key text, p_owner uuid, p_fence bigint,
  p_writer uuid, p_topics text[], p_keys text[], p_event_ids uuid[], p_headers jsonb, p_values bytea[])
  returns table (ord int, id bigint, fast boolean, prev_id bigint)
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan
as $$
begin
  perform tool_executor.work_hold(p_tenant, p_key, p_owner, p_fence);
  return query select * from messaging.outbox_put(
    p_writer, p_tenant, p_topics, p_keys, p_event_ids, p_headers, p_values);
end $$;

select app.protect_queue_functions('tool_executor', 'signalbox_tool_executor');

-- Down Migration

drop function tool_executor.tell_call, tool_executor.finish_call, tool_executor.stored_outcomes,
  tool_executor.take_unpublished, tool_executor.fill_tools, tool_executor.find_tool;
drop table tool_executor.tools;
drop function tool_executor.raise_tool_version;
