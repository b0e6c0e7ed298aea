import { newId } from '@signalbox/contracts/ids';
import { expect, it } from 'vitest';
import { unknownTenant } from './dead-letters.ts';
import { decodeRecord } from './decode-record.ts';

const acmes = `acme:${newId()}`;
const cases: [string, string | null, string | undefined, string][] = [
  ['key and header name it', acmes, 'acme', 'acme'],
  ['only the key can be read', acmes, 'No Slug', 'acme'],
  ['only the key is there', acmes, undefined, 'acme'],
  ['only the header can be read', 'no colon', 'acme', 'acme'],
  ['only the header is there', null, 'acme', 'acme'],
  ['key and header name two tenants', acmes, 'globex', unknownTenant],
  ['neither can be read', 'no colon', 'No Slug', unknownTenant],
  ['neither is there', null, undefined, unknownTenant],
  ['the header names nobody by his name', null, unknownTenant, unknownTenant],
];

it.each(cases)('poison where %s is filed under its owner alone', (_, key, tenant, owner) => {
  const decoded = decodeRecord(
    'conversation.inbound',
    0,
    {
      ...{ offset: 1n, timestampMs: 0, key: key === null ? null : Buffer.from(key), value: Buffer.from('x') },
      headers: tenant === undefined ? {} : { tenant_id: tenant },
    },
    undefined,
  );
  expect(decoded).toMatchObject({ kind: 'poison', poison: { tenant: owner } });
});
