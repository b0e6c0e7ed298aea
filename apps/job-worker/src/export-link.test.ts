import { newId } from '@signalbox/contracts/ids';
import { isFault } from '@signalbox/faults/fault';
import { expect, test } from 'vitest';
import { checkLink, exportUrl, type GivenLink } from './export-link.ts';

const secret = 'a secret of this test that is long enough';
const now = Date.UTC(2026, 0, 1);
const link = { tenant: 'acme', jobId: newId(), expires: now / 1_000 + 60 };

function given(url: string): GivenLink {
  const { pathname, searchParams } = new URL(url);
  return {
    job_id: pathname.split('/').at(-1) ?? '',
    tenant: searchParams.get('tenant') ?? undefined,
    expires: searchParams.get('expires') ?? undefined,
    signature: searchParams.get('signature') ?? undefined,
  };
}

const why = (of: GivenLink, at = now, by = secret) => {
  try {
    checkLink(of, by, at);
    return 'good';
  } catch (error) {
    return isFault(error, 'FORBIDDEN') ? error.message : String(error);
  }
};

test('a link is good until it expires', () => {
  const url = exportUrl('https://files.example.org/base/', link, secret);
  expect(url).toMatch(`https://files.example.org/base/v1/exports/${link.jobId}?tenant=acme&expires=`);
  expect(checkLink(given(url), secret, now)).toEqual(link);
  expect(why(given(url), now + 59_999)).toBe('good');
  expect(why(given(url), now + 60_000)).toBe('the link has expired');
});

test.each<[string, (of: GivenLink) => GivenLink]>([
  ['another tenant', (of) => ({ ...of, tenant: 'globex' })],
  ['another job', (of) => ({ ...of, job_id: newId() })],
  ['a later end', (of) => ({ ...of, expires: String(link.expires + 1) })],
  ['an end that is read otherwise', (of) => ({ ...of, expires: `0${link.expires}` })],
  ['no end', ({ expires: _, ...of }) => of],
  ['no signature', ({ signature: _, ...of }) => of],
  ['half a signature', (of) => ({ ...of, signature: of.signature?.slice(0, 20) })],
  ['a path as its tenant', (of) => ({ ...of, tenant: '../acme' })],
  ['a path as its job', (of) => ({ ...of, job_id: '../../etc/passwd' })],
])('%s is refused', (_, change) => {
  expect(why(change(given(exportUrl('http://x', link, secret))))).toBe('the link is not one of ours');
});

test('another secret is refused', () => {
  expect(why(given(exportUrl('http://x', link, secret)), now, `${secret}!`)).toBe(
    'the link is not one of ours',
  );
});
