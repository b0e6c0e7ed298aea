-- Up Migration

-- What a holder that has lost its lease sends comes late, behind what the next one has sent: it must be seen neither in the
-- stream nor here. So the place of each attempt of a turn is kept, beside that of its end: [[attempt, epoch, position], …]
-- of those above the first, which most turns do not have.
alter table gateway.messages add column takeovers jsonb;

-- gateway.store_events of 0032 with one array more, the attempts, and one outcome more:
--   stale    the turn has ended at a lower position, or a stored event at a lower one has a higher attempt: not stored,
--            to be left out of the stream
-- What lies lower is stored before, or stands in the same batch, so a redelivery gets the answer of the first time; of a turn
-- that is not in gateway.messages nothing is remembered, and nothing is stale. The function without attempts stays for
-- replicas of the release before.
create function gateway.store_events(
  p_tenants text[], p_upto int[], p_epoch int,
  p_session_ids uuid[], p_positions bigint[], p_event_ids uuid[], p_turn_ids uuid[], p_attempts int[], p_types text[],
  p_terminal boolean[], p_data text[]
) returns table (ord int, outcome text, detail text) language plpgsql
  set plan_cache_mode = force_generic_plan set enable_seqscan = off -- why: gateway.accept
as $$
declare
  v_tenant text;
  v_from int := 1;
  v_to int;
  v_step int;
  v_failed text;
  v_outcomes text[];
  v_turn record;
begin
  for v_step in 1 .. cardinality(p_tenants) loop
    v_tenant := p_tenants[v_step];
    v_to := p_upto[v_step];
    v_failed := null;
    v_outcomes := null;
    begin
      perform set_config('app.tenant', v_tenant, true);
      -- An event that is late for its attempt does not end its turn; one that is late for its end is behind that end.
      with attempts as (
        select o, p_session_ids[o] as session_id, p_turn_ids[o] as turn_id, p_positions[o] as position,
               p_attempts[o] as attempt, p_terminal[o] as terminal,
               max(p_attempts[o]) over (partition by p_turn_ids[o] order by p_positions[o]
                                        rows between unbounded preceding and 1 preceding) as before
          from generate_series(v_from, v_to) o
      ), late as (
        select a.*,
               a.attempt < a.before
                 or (m.takeovers is not null and exists (
                   select from jsonb_array_elements(m.takeovers) t
                     where (t ->> 0)::int > a.attempt and ((t ->> 1)::int, (t ->> 2)::bigint) < (p_epoch, a.position)))
                 as for_attempt,
               (m.end_epoch, m.end_position) < (p_epoch, a.position) as for_end,
               m.turn_id is not null as known
          from attempts a
          -- One look by the key for each event: the limit keeps the planner from joining all of the tenant's messages.
          left join lateral (
            select k.turn_id, k.takeovers, k.end_epoch, k.end_position from gateway.messages k
              where k.tenant = v_tenant and k.session_id = a.session_id and k.turn_id = a.turn_id limit 1) m on true
      ), judged as (
        select l.o, l.session_id, l.position,
               l.known and (coalesce(l.for_attempt, false) or coalesce(l.for_end, false) or coalesce(
                 bool_or(l.terminal and l.for_attempt is not true) over (
                   partition by l.turn_id order by l.position rows between unbounded preceding and 1 preceding),
                 false)) as stale
          from late l
      ), stored as (
        insert into gateway.session_events (tenant, session_id, epoch, position, event_id, event_type, data)
          select v_tenant, j.session_id, p_epoch, j.position, p_event_ids[j.o], p_types[j.o], p_data[j.o]
            from judged j
            where not j.stale
            order by j.session_id, j.position
          on conflict do nothing
          returning session_id, position)
      select array_agg(case when s.position is not null then 'stored' when j.stale then 'stale' end order by j.o)
        into v_outcomes
        from judged j
        left join stored s on s.session_id = j.session_id and s.position = j.position;

      if ('stored' = all (v_outcomes)) is not true then
        select array_agg(case when v_outcomes[o - v_from + 1] = 'stored' then 'stored'
                              when e.epoch = p_epoch and e.position = p_positions[o] then 'known'
                              when e.event_id is not null then 'repeat'
                              else coalesce(v_outcomes[o - v_from + 1], 'clash') end order by o)
          into v_outcomes
          from generate_series(v_from, v_to) o
          left join gateway.session_events e on e.tenant = v_tenant and e.event_id = p_event_ids[o];
      end if;

      if true = any (p_terminal[v_from:v_to]) or 1 < any (p_attempts[v_from:v_to]) then
        -- One by one, each by its key: a plan for all of them at once reads every message of the tenant while the tables
        -- are new. In key order, so that two owners of a partition, during a rebalance, do not wait for each other.
        for v_turn in
          select p_session_ids[o] as session_id, p_turn_ids[o] as turn_id, p_attempts[o] as attempt,
                 min(p_positions[o]) as position, min(p_positions[o]) filter (where p_terminal[o]) as end_position
            from generate_series(v_from, v_to) o
            where (p_terminal[o] or p_attempts[o] > 1) and v_outcomes[o - v_from + 1] in ('stored', 'known')
            group by 1, 2, 3 order by 1, 2, 3
        loop
          if v_turn.end_position is not null then
            update gateway.messages m
              set ended_at = clock_timestamp(), end_epoch = p_epoch, end_position = v_turn.end_position
              where m.tenant = v_tenant and m.session_id = v_turn.session_id and m.turn_id = v_turn.turn_id
                and m.ended_at is null;
          end if;
          if v_turn.attempt > 1 then
            update gateway.messages m
              set takeovers = coalesce(m.takeovers, '[]')
                || jsonb_build_array(jsonb_build_array(v_turn.attempt, p_epoch, v_turn.position))
              where m.tenant = v_tenant and m.session_id = v_turn.session_id and m.turn_id = v_turn.turn_id
                and not exists (
                  select from jsonb_array_elements(m.takeovers) t where (t ->> 0)::int = v_turn.attempt);
          end if;
        end loop;
      end if;
    exception when others then
      v_failed := sqlstate;
    end;
    return query
      select o, case when v_failed is null then v_outcomes[o - v_from + 1] else 'failed' end, v_failed
        from generate_series(v_from, v_to) o;
    v_from := v_to + 1;
  end loop;
end $$;

revoke all on function gateway.store_events(
  text[], int[], int, uuid[], bigint[], uuid[], uuid[], int[], text[], boolean[], text[]) from public;
grant execute on function gateway.store_events(
  text[], int[], int, uuid[], bigint[], uuid[], uuid[], int[], text[], boolean[], text[]) to signalbox_gateway;

-- Down Migration

drop function gateway.store_events(
  text[], int[], int, uuid[], bigint[], uuid[], uuid[], int[], text[], boolean[], text[]);
alter table gateway.messages drop column takeovers;
