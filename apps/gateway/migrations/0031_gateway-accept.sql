-- Up Migration

create type gateway.accept_result as (
  ord int, outcome text, session_id uuid, event_id uuid, turn_id uuid, persona_id text,
  outbox_id bigint, fast boolean, prev_id bigint, detail text);

-- Accepts the messages of one tick: each row of the arrays is one request, rows of a tenant stand together.
-- p_upto[n] is the index of the last row of p_tenants[n].
--
-- Outcome of each row, in any order:
--   accepted   stored with its outbox row (fast: the caller publishes it; prev_id: see messaging.outbox_put)
--   again      this very request was stored by an earlier try whose answer was lost: same ids, no second effect
--   replayed   its idempotency key was used with the same body: session_id, event_id, turn_id are those of that time
--   key_reused its idempotency key was used with another body
--   no_session its session is not the tenant's
--   failed     the tenant's rows of this tick were not stored; detail is the SQLSTATE
--
-- Plans are kept: a custom plan looks cheaper for the few rows of a tick, so each statement was planned anew at every
-- call, which took longer than to run it. No scans: a plan may have been made while a table was still empty.
--
-- Order of locks, the same in every caller: outbox keys of all rows (sorted by messaging.outbox_lock), then tenant by
-- tenant the idempotency keys in their own order. So two ticks can wait for each other in one direction only.
create function gateway.accept(
  p_writer uuid, p_topic text, p_route text,
  p_tenants text[], p_upto int[],
  p_session_ids uuid[], p_new boolean[], p_event_ids uuid[], p_turn_ids uuid[], p_personas text[],
  p_keys text[], p_hashes bytea[], p_headers text[], p_bodies text[]
) returns setof gateway.accept_result language plpgsql
  set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_tenant text;
  v_from int := 1;
  v_to int;
  v_step int;
  v_rows int[];       -- rows still on their way in
  v_answered int[];   -- rows whose idempotency key was there before
  v_stored int[];     -- rows whose message is new
  v_again int[];      -- rows whose message an earlier try has stored
  v_persona text[] := array_fill(null::text, array[cardinality(p_event_ids)]);
  v_values text[] := array_fill(null::text, array[cardinality(p_event_ids)]);
  v_slice text[];
  v_part gateway.accept_result[];
begin
  -- One tenant and no key: outbox_put below takes the same locks in the same order, and nothing is waited for before it.
  if cardinality(p_tenants) > 1 or exists (select from unnest(p_keys) k where k is not null) then
    perform messaging.outbox_lock(
      (select array_agg(p_topic) from unnest(p_event_ids)),
      (select array_agg(t.tenant || ':' || s.id order by s.ord)
         from unnest(p_session_ids) with ordinality s(id, ord)
         join (select u.tenant, u.upto, coalesce(lag(u.upto) over (order by u.n), 0) as after
                 from unnest(p_tenants, p_upto) with ordinality u(tenant, upto, n)) t
           on s.ord > t.after and s.ord <= t.upto));
  end if;

  for v_step in 1 .. cardinality(p_tenants) loop
    v_tenant := p_tenants[v_step];
    v_to := p_upto[v_step];
    v_part := null;
    begin
      perform set_config('app.tenant', v_tenant, true);

      -- A foreign session is invisible, so it reads like an unknown one.
      v_rows := null;
      if true = any (p_new[v_from:v_to]) and not false = any (p_new[v_from:v_to]) then
        v_rows := array(select generate_series(v_from, v_to));
        v_persona[v_from:v_to] := p_personas[v_from:v_to];
      else
        select array_agg(i.ord order by i.ord) filter (where i.is_new or s.session_id is not null),
               array_agg(coalesce(i.persona, s.persona_id) order by i.ord)
          into v_rows, v_slice
          from (select n + v_from - 1 as ord, u.id, u.is_new, u.persona
                  from unnest(p_session_ids[v_from:v_to], p_new[v_from:v_to], p_personas[v_from:v_to])
                       with ordinality u(id, is_new, persona, n)) i
          left join gateway.sessions s on not i.is_new and s.tenant = v_tenant and s.session_id = i.id;
        v_persona[v_from:v_to] := v_slice;
      end if;
      v_rows := coalesce(v_rows, '{}');

      -- Two statements: the second sees the key that made the first one wait.
      v_answered := '{}';
      if exists (select from unnest(p_keys[v_from:v_to]) k where k is not null) then
        insert into gateway.idempotency_keys (tenant, route, key, body_hash, event_id, answer)
          select v_tenant, p_route, p_keys[o], p_hashes[o], p_event_ids[o],
                 json_build_object('session_id', p_session_ids[o], 'event_id', p_event_ids[o], 'turn_id', p_turn_ids[o])
            from unnest(v_rows) o
            where p_keys[o] is not null
            order by p_keys[o]
          on conflict do nothing;
        select array_agg(o), array_agg(row(
                 o, case when k.body_hash = p_hashes[o] then 'replayed' else 'key_reused' end,
                 (k.answer ->> 'session_id')::uuid, k.event_id, (k.answer ->> 'turn_id')::uuid,
                 null, null, null, null, null)::gateway.accept_result)
          into v_answered, v_part
          from unnest(v_rows) o
          join gateway.idempotency_keys k on k.tenant = v_tenant and k.route = p_route and k.key = p_keys[o]
          where k.event_id <> p_event_ids[o];
        if cardinality(v_answered) > 0 then
          v_rows := array(select o from unnest(v_rows) o where o <> all (v_answered));
        end if;
      end if;

      if true = any (p_new[v_from:v_to]) then
        insert into gateway.sessions (tenant, session_id, persona_id)
          select v_tenant, p_session_ids[o], v_persona[o] from unnest(v_rows) o where p_new[o]
          on conflict do nothing;
      end if;

      -- The persona of an old session is known only here, so it is put in front of the value that the caller made.
      select array_agg('{"persona_id":' || to_json(v_persona[o])::text || ',' || p_bodies[o] order by o)
        into v_slice
        from generate_series(v_from, v_to) o;
      v_values[v_from:v_to] := v_slice;
      with stored as (
        insert into gateway.messages (tenant, session_id, turn_id, event_id, body)
          select v_tenant, p_session_ids[o], p_turn_ids[o], p_event_ids[o], v_values[o]::json
            from unnest(v_rows) o order by o
          on conflict do nothing
          returning event_id)
      select array_agg(o order by o) into v_stored
        from unnest(v_rows) o join stored on stored.event_id = p_event_ids[o];
      v_stored := coalesce(v_stored, '{}');

      v_part := coalesce(v_part, '{}');
      if cardinality(v_stored) > 0 then
        v_part := v_part || array(
          select row(o, 'accepted', p_session_ids[o], p_event_ids[o], p_turn_ids[o], v_persona[o],
                     b.id, b.fast, b.prev_id, null)::gateway.accept_result
            from messaging.outbox_put(
                   p_writer, v_tenant,
                   (select array_agg(p_topic) from unnest(v_stored)),
                   (select array_agg(v_tenant || ':' || p_session_ids[o] order by o) from unnest(v_stored) o),
                   (select array_agg(p_event_ids[o] order by o) from unnest(v_stored) o),
                   (select jsonb_agg(p_headers[o]::jsonb order by o) from unnest(v_stored) o),
                   (select array_agg(convert_to(v_values[o], 'UTF8') order by o) from unnest(v_stored) o)) b,
                 lateral (select v_stored[b.ord]) as s(o));
      end if;
      if cardinality(v_stored) < cardinality(v_rows) then
        -- The earlier try's outbox rows name this process as their sender, and it never learned their ids.
        v_again := array(select o from unnest(v_rows) o where o <> all (v_stored));
        perform messaging.outbox_give_up(
          p_writer,
          (select array_agg(p_topic) from unnest(v_again)),
          (select array_agg(v_tenant || ':' || p_session_ids[o] order by o) from unnest(v_again) o),
          array_fill(0::bigint, array[cardinality(v_again)]));
        v_part := v_part || array(
          select row(o, 'again', p_session_ids[o], p_event_ids[o], p_turn_ids[o], v_persona[o],
                     null, null, null, null)::gateway.accept_result
            from unnest(v_again) o);
      end if;
      v_part := v_part || array(
        select row(o, 'no_session', null, null, null, null, null, null, null, null)::gateway.accept_result
          from generate_series(v_from, v_to) o where o <> all (v_rows) and o <> all (coalesce(v_answered, '{}')));
    exception when others then
      -- What the block wrote is undone; the other tenants of the tick are not touched.
      v_part := array(
        select row(o, 'failed', null, null, null, null, null, null, null, sqlstate)::gateway.accept_result
          from generate_series(v_from, v_to) o);
    end;
    -- After the block: inside it a row would be reported as stored although its tenant's writes were undone later.
    return query select * from unnest(v_part);
    v_from := v_to + 1;
  end loop;
end $$;

-- Turns of each tenant that wait or run, counted up to p_limit. Read a few times a second, not once a request.
create function gateway.open_turns(p_tenants text[], p_limit int)
returns table (tenant text, open_turns int) language plpgsql as $$
#variable_conflict use_column
declare v_tenant text;
begin
  foreach v_tenant in array p_tenants loop
    perform set_config('app.tenant', v_tenant, true);
    return query
      select v_tenant, count(*)::int from (
        select from gateway.messages m
          where m.tenant = v_tenant and m.ended_at is null and m.accepted_at > now() - interval '1 day'
          limit p_limit) counted;
  end loop;
end $$;

revoke all on function gateway.accept, gateway.open_turns from public;
grant execute on function gateway.accept, gateway.open_turns to signalbox_gateway;

-- Down Migration

drop function gateway.accept;
drop function gateway.open_turns;
drop type gateway.accept_result;
