import { fault } from '@signalbox/faults/fault';
import { parseStrictJson } from './strict-json.ts';
import type { FastifyRequest, HttpServer } from './types.ts';

const plainType = 'application/json';

/**
 * Takes JSON bodies alone, read strictly; everything else is 415. The bytes stay on the request: an idempotency key is
 * held against their digest.
 */
export function jsonBodies(server: HttpServer): void {
  server.removeAllContentTypeParsers();
  server.addContentTypeParser(plainType, { parseAs: 'buffer' }, (request, body, done) => {
    try {
      refuseOtherEncodings(request);
      if (typeof body === 'string') throw fault('MALFORMED_REQUEST', 'the body is not bytes');
      if (body.length === 0) throw fault('MALFORMED_REQUEST', 'the body is empty');
      request.rawBody = body;
      done(null, parseStrictJson(body));
    } catch (error) {
      done(error instanceof Error ? error : new Error(String(error)), undefined);
    }
  });
}

/** JSON is UTF-8 (RFC 8259): another charset, or a compressed body, would be read as something it is not. */
function refuseOtherEncodings({ headers }: FastifyRequest): void {
  const encoding = headers['content-encoding'];
  if (encoding !== undefined && encoding !== 'identity') {
    throw fault('UNSUPPORTED_MEDIA_TYPE', 'send the body without Content-Encoding');
  }
  const type = headers['content-type'];
  if (type === plainType || type === undefined) return;
  const charset = /;\s*charset\s*=\s*"?([^";\s]+)/i.exec(type)?.[1];
  if (charset !== undefined && charset.toLowerCase() !== 'utf-8' && charset.toLowerCase() !== 'utf8') {
    throw fault('UNSUPPORTED_MEDIA_TYPE', 'JSON is sent as UTF-8');
  }
}
