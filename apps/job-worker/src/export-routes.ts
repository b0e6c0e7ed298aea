import { createReadStream } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { fault } from '@signalbox/faults/fault';
import type { HttpServer } from '@signalbox/http/types';
import { Type } from 'typebox';
import { exportPath } from './export-file.ts';
import { checkLink } from './export-link.ts';

export interface ExportRouteOptions {
  readonly folder: string;
  readonly secret: string;
}

const Params = Type.Object({ job_id: Type.String() });
/** All optional: a link with a part missing is a link that is not ours, and not a request that breaks a schema. */
const Query = Type.Object({
  tenant: Type.Optional(Type.String()),
  expires: Type.Optional(Type.String()),
  signature: Type.Optional(Type.String()),
});

/** `GET /v1/exports/{job_id}`: the file of an export, to everybody with a signed link that has not expired. */
export function exportRoutes(server: HttpServer, { folder, secret }: ExportRouteOptions): void {
  server.get(
    '/v1/exports/:job_id',
    { schema: { params: Params, querystring: Query }, config: { open: true }, exposeHeadRoute: false },
    async (request, reply) => {
      const { tenant, jobId } = checkLink({ ...request.params, ...request.query }, secret, Date.now());
      request.observed.tenantId = tenant;
      const file = await openFile(exportPath(folder, tenant, jobId));
      const { size } = await file.stat();
      reply
        .type('application/x-ndjson')
        .header('content-length', size)
        .header('content-disposition', `attachment; filename="${jobId}.ndjson"`)
        .header('cache-control', 'private, no-store');
      // A reader that goes away ends the stream, which closes the file.
      return reply.send(createReadStream('', { fd: file, end: Math.max(size - 1, 0) }));
    },
  );
}

/** @throws NOT_FOUND. */
async function openFile(path: string): Promise<FileHandle> {
  try {
    return await open(path, 'r');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') {
      throw fault('NOT_FOUND', 'the file of this export is not kept any more');
    }
    throw error;
  }
}
