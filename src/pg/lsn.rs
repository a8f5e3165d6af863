//! PostgreSQL's type `pg_lsn`.

use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::pgrx_sql_entity_graph::impl_sql_translatable;
use pgrx::{IntoDatum, pg_sys};
use walarchive_core::Lsn;

use super::{Datum, Oid};

/// An LSN as SQL sees it.
#[derive(Debug, Clone, Copy)]
pub struct PgLsn(pub Lsn);

impl IntoDatum for PgLsn {
    // `LSNGetDatum()`: passed by value, as all types of 8 bytes are on machines of 64 bits.
    fn into_datum(self) -> Option<Datum> {
        Some(Datum::from(self.0.0))
    }

    fn type_oid() -> Oid {
        pg_sys::PG_LSNOID
    }
}

// SAFETY: the datum of the call is the one that is returned.
unsafe impl BoxRet for PgLsn {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        // SAFETY: by value, so that no memory is lent.
        unsafe { fcinfo.return_raw_datum(Datum::from(self.0.0)) }
    }
}

// SAFETY: the SQL name is that of the type whose datum `into_datum` makes.
impl_sql_translatable!(PgLsn, "pg_lsn");
