import { createHmac, timingSafeEqual } from 'node:crypto';
import { isId } from '@signalbox/contracts/ids';
import { isTenant } from '@signalbox/contracts/keys';
import { fault } from '@signalbox/faults/fault';

/** What a link is for. */
export interface ExportLink {
  readonly tenant: string;
  readonly jobId: string;
  /** Seconds since 1970. */
  readonly expires: number;
}

/** As it stands in an URL: nothing of it can be trusted. */
export interface GivenLink {
  readonly job_id: string;
  readonly tenant?: string | undefined;
  readonly expires?: string | undefined;
  readonly signature?: string | undefined;
}

function signatureOf({ tenant, jobId, expires }: ExportLink, secret: string): Buffer {
  // None of the three can hold a line break, so they are read in one way only.
  return createHmac('sha256', secret).update(`export\n${tenant}\n${jobId}\n${expires}`, 'utf8').digest();
}

/** The URL at which an export can be read until it expires, by everybody who has it. */
export function exportUrl(publicUrl: string, link: ExportLink, secret: string): string {
  const { tenant, jobId, expires } = link;
  const query = new URLSearchParams({
    tenant,
    expires: String(expires),
    signature: signatureOf(link, secret).toString('base64url'),
  });
  return `${publicUrl.replace(/\/+$/, '')}/v1/exports/${jobId}?${query}`;
}

/**
 * The link that this signature is good for. The same fault for all that is wrong with it but its time.
 * @throws FORBIDDEN.
 */
export function checkLink(given: GivenLink, secret: string, nowMs: number): ExportLink {
  const { job_id: jobId, tenant, expires = '', signature = '' } = given;
  if (!isId(jobId) || !isTenant(tenant) || !/^[1-9]\d{0,11}$/.test(expires)) throw notSigned();
  const link = { tenant, jobId, expires: Number(expires) };
  const wanted = signatureOf(link, secret);
  const found = Buffer.from(signature, 'base64url');
  if (found.length !== wanted.length || !timingSafeEqual(found, wanted)) throw notSigned();
  if (link.expires * 1_000 <= nowMs) throw fault('FORBIDDEN', 'the link has expired');
  return link;
}

function notSigned() {
  return fault('FORBIDDEN', 'the link is not one of ours');
}
