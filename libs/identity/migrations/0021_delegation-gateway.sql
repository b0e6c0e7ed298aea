-- Up Migration

-- The other gateway asks who calls, and makes no keys. (authProbe reads identity.tenants.)
grant usage on schema identity to signalbox_delegation_gateway;
grant select on identity.tenants to signalbox_delegation_gateway;
grant execute on function identity.find_key(text) to signalbox_delegation_gateway;

-- Down Migration

revoke execute on function identity.find_key(text) from signalbox_delegation_gateway;
revoke select on identity.tenants from signalbox_delegation_gateway;
revoke usage on schema identity from signalbox_delegation_gateway;
