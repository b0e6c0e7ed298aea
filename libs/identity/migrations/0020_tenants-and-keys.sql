-- Tenants and their API keys. A service reaches a key it does not yet know the tenant of through find_key alone, which
-- runs as signalbox_identity: the only role besides the owner that sees every tenant's keys.
DO $$
BEGIN
  IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'signalbox_identity') THEN
    BEGIN
      CREATE ROLE signalbox_identity NOLOGIN;
    EXCEPTION WHEN duplicate_object OR unique_violation THEN
      NULL; -- another database's migration was faster
    END;
  END IF;
  IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
     AND NOT pg_has_role(current_user, 'signalbox_identity', 'SET') THEN
    EXECUTE format('GRANT signalbox_identity TO %I WITH INHERIT TRUE, SET TRUE', current_user);
  END IF;
END;
$$;

CREATE SCHEMA identity;
GRANT USAGE ON SCHEMA identity TO signalbox_gateway, signalbox_identity;

CREATE TABLE identity.tenants (
  tenant     text COLLATE "C" PRIMARY KEY CHECK (tenant ~ '^[a-z0-9-]{1,40}$'),
  name       text NOT NULL,
  disabled_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
SELECT app.protect_tenant_table('identity.tenants', 'SELECT', 'signalbox_gateway');

CREATE TABLE identity.api_keys (
  tenant     text COLLATE "C" NOT NULL REFERENCES identity.tenants,
  key_id     uuid NOT NULL,
  -- The one unique key of this schema that does not begin with the tenant: the tenant is found by it.
  lookup     text COLLATE "C" NOT NULL UNIQUE CHECK (lookup ~ '^[a-z0-9]{12}$'),
  -- SHA-256 of the whole key. Its secret part is random and long, so a slow hash would guard nothing.
  key_hash   bytea NOT NULL CHECK (octet_length(key_hash) = 32),
  name       text NOT NULL DEFAULT '',
  scopes     text[] NOT NULL DEFAULT '{}',
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at timestamptz,
  revoked_at timestamptz,
  PRIMARY KEY (tenant, key_id)
);
-- The hash is written and never read by a service.
SELECT app.protect_tenant_table('identity.api_keys',
  'SELECT (tenant, key_id, lookup, name, scopes, created_at, expires_at, revoked_at), INSERT, UPDATE (name, scopes, expires_at, revoked_at)',
  'signalbox_gateway');

CREATE POLICY find_key ON identity.tenants FOR SELECT TO signalbox_identity USING (true);
CREATE POLICY find_key ON identity.api_keys FOR SELECT TO signalbox_identity USING (true);
GRANT SELECT ON identity.tenants, identity.api_keys TO signalbox_identity;

-- The key of this lookup id, whatever its tenant. `state` says why it must not be accepted, if so. The caller compares
-- the hash in constant time before it looks at anything else.
CREATE FUNCTION identity.find_key(p_lookup text)
RETURNS TABLE (tenant text, key_id uuid, key_hash bytea, scopes text[], state text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT k.tenant::text, k.key_id, k.key_hash, k.scopes,
         CASE WHEN k.revoked_at IS NOT NULL THEN 'revoked'
              WHEN k.expires_at <= clock_timestamp() THEN 'expired'
              WHEN t.disabled_at IS NOT NULL THEN 'disabled'
              ELSE 'good' END
  FROM identity.api_keys k JOIN identity.tenants t ON t.tenant = k.tenant
  WHERE k.lookup = p_lookup;
$$;
REVOKE ALL ON FUNCTION identity.find_key(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION identity.find_key(text) TO signalbox_gateway;
GRANT CREATE ON SCHEMA identity TO signalbox_identity;
ALTER FUNCTION identity.find_key(text) OWNER TO signalbox_identity;
REVOKE CREATE ON SCHEMA identity FROM signalbox_identity;

-- Stores a key that the caller has made; again with the same lookup does nothing and answers false. With the caller's
-- rights: a service can only make keys of the tenant its transaction is set to, the owner (seed) of any.
CREATE FUNCTION identity.create_key(p_tenant text, p_key_id uuid, p_lookup text, p_key_hash bytea, p_name text,
                                    p_scopes text[], p_expires_at timestamptz DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO identity.api_keys (tenant, key_id, lookup, key_hash, name, scopes, expires_at)
  VALUES (p_tenant, p_key_id, p_lookup, p_key_hash, p_name, p_scopes, p_expires_at)
  ON CONFLICT DO NOTHING;
  RETURN FOUND;
END;
$$;
REVOKE ALL ON FUNCTION identity.create_key(text, uuid, text, bytea, text, text[], timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION identity.create_key(text, uuid, text, bytea, text, text[], timestamptz) TO signalbox_gateway;
